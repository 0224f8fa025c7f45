"""Chooses tokens with numpy: the meaning of `Choice`, and what is used where a program can't draw.

Kept tokens are those above thresholds, so equal logits are kept or left out together and no order
among them matters; the token is then looked up along the ids. Each row is on its own, which is
why a token doesn't depend on what else is in the batch.
"""

import numpy as np

from ....artifact.choice import NOTHING, Choice, Edits
from ....base.arrays import Float32Array
from .logprobs import of_rows

Mask = np.ndarray
"""bool [vocab]"""


def draw_row(x: Float32Array, choice: Choice) -> None:
    """Fills the results of one choice. x: f32 [vocab], its row, changed in place."""
    raw = x
    if choice.target != NOTHING:
        choice.token = choice.target
    else:
        raw = x.copy() if choice.top >= 0 else x
        change(x, choice)
        choice.token = token_of(x, choice)
    if choice.top >= 0 and choice.token != NOTHING:
        report = of_rows(raw[None], [choice.token], choice.top)[0]
        choice.logprob, choice.alternatives = report.logprob, list(report.top)


def change(x: Float32Array, choice: Choice) -> None:
    """Edits, the grammar's mask and forbidden ids, in place."""
    if choice.edits:
        edit(x, choice.edits)
    if choice.allowed is not None:
        bits = np.unpackbits(np.frombuffer(choice.allowed, np.uint8), bitorder="little")
        x[bits[: len(x)] == 0] = -np.inf
    if choice.forbidden:
        x[list(choice.forbidden)] = -np.inf


def edit(x: Float32Array, edits: Edits) -> None:
    """Bias, then repetition penalty, then presence and frequency penalties."""
    ids, bias, penalty, minus = (
        np.array(values) for values in (edits.ids, edits.bias, edits.penalty, edits.minus)
    )
    chosen = x[ids] + bias
    x[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty) - minus


def token_of(x: Float32Array, choice: Choice) -> int:
    """The token chosen from changed logits, or `NOTHING`."""
    known = x > -np.inf  # neither left out nor NaN
    if not known.any():
        return NOTHING
    largest = x.max(where=known, initial=-np.inf)
    if largest == np.inf or choice.temperature == 0:
        return int(np.flatnonzero(x == largest)[0])
    kept, weights = candidates(x, known, largest, choice)
    cumulative = np.cumsum(weights[kept], dtype=np.float64)
    place = np.searchsorted(cumulative, choice.uniform * cumulative[-1], "right")
    return int(np.flatnonzero(kept)[min(int(place), len(cumulative) - 1)])


def candidates(
    x: Float32Array, kept: Mask, largest: np.floating, choice: Choice
) -> tuple[Mask, Float32Array]:
    """Which tokens may be drawn, and their weights f32 [vocab], that of the largest being 1."""
    below = np.where(kept, largest - x, np.float32(np.inf))
    weights = np.exp(-below * np.float32(min(1 / choice.temperature, 1e38)))
    if 0 < choice.top_k < kept.sum():
        kept = kept & (below <= np.partition(below, choice.top_k - 1)[choice.top_k - 1])
    if choice.top_p < 1:
        kept = kept & (below <= _nucleus(below, weights, kept, choice.top_p))
    kept = kept & (weights > 0) & (weights >= np.float32(choice.min_p))
    if choice.typical_p < 1:
        some = weights[kept].astype(np.float64)
        mean = np.float32((some * below[kept]).sum() / some.sum())
        distance = np.abs(np.where(kept, below, np.float32(np.inf)) - mean)
        kept = kept & (distance <= _nucleus(distance, weights, kept, choice.typical_p))
    return kept, weights


def _nucleus(key: np.ndarray, weights: np.ndarray, kept: Mask, share: float) -> float:
    """The smallest key such that kept tokens up to it hold `share` of the weight of all kept."""
    keys, some = key[kept], weights[kept]
    order = np.argsort(keys, kind="stable")
    cumulative = np.cumsum(some[order], dtype=np.float64)
    place = int(np.searchsorted(cumulative, share * cumulative[-1], "left"))
    return float(keys[order[min(place, len(order) - 1)]])
