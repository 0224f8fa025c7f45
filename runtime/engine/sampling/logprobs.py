"""Log-probabilities under the model's own distribution, before anything is done to its logits."""

from collections.abc import Sequence

import numpy as np

from ....base.arrays import Float32Array
from ..request import TokenLogprob


def of_rows(logits: Float32Array, targets: Sequence[int], top: int) -> list[TokenLogprob]:
    """What the model thought of `targets[r]` in row r, and its `top` most likely tokens there,
    of those that are possible.

    logits: f32 [R, vocab], not changed. Equally likely alternatives are in the order of their ids.
    """
    rows = np.arange(len(targets))
    largest = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    normalizers = largest[:, 0] + np.log(sums)  # float64
    chosen = (logits[rows, np.asarray(targets, np.int64)] - normalizers).tolist()
    alternatives = [
        _most_likely(row, float(normalizer), top)
        for row, normalizer in zip(logits, normalizers, strict=True)
    ]
    return [TokenLogprob(*entry) for entry in zip(targets, chosen, alternatives, strict=True)]


def _most_likely(row: Float32Array, normalizer: float, top: int) -> tuple[tuple[int, float], ...]:
    if not top:
        return ()
    top = min(top, len(row))
    smallest = np.partition(row, len(row) - top)[len(row) - top]
    ids = np.flatnonzero((row >= smallest) & (row > -np.inf))
    ids = ids[np.argsort(-row[ids], kind="stable")][:top]
    return tuple(zip(ids.tolist(), (row[ids] - normalizer).tolist(), strict=True))
