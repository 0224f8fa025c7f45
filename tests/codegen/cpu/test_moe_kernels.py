"""Routing sorts (token, choice) pairs by expert, stably; combining adds in the choices' order."""

import numpy as np
import pytest
from row_kernels import LEVELS, call

POISON = -77


def route(level: str, idx: np.ndarray, experts: int, threads: int = 2):
    tokens, topk = idx.shape
    row_index = np.full(tokens * topk + 1, POISON, np.int32)
    offsets = np.full(experts + 2, POISON, np.int32)
    slot = np.full(tokens * topk + 1, POISON, np.int32)
    call(
        level, "route_tokens", threads, [tokens, topk, experts], [], [idx, row_index, offsets, slot]
    )
    assert (row_index[-1], offsets[-1], slot[-1]) == (POISON, POISON, POISON)
    return row_index[:-1], offsets[:-1], slot[:-1].reshape(tokens, topk)


def random_choices(rng: np.random.Generator, tokens: int, topk: int, experts: int) -> np.ndarray:
    """[tokens, topk] distinct experts a token, some experts far more popular than others."""
    score = rng.standard_normal((tokens, experts)) + 3 * rng.standard_normal(experts)
    return np.argsort(-score, axis=1)[:, :topk].astype(np.int32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("tokens", "topk", "experts"),
    [(1, 1, 1), (1, 2, 8), (7, 2, 4), (33, 8, 512), (257, 4, 60), (5, 3, 3)],
)
def test_routing_is_a_stable_sort(level: str, tokens: int, topk: int, experts: int):
    idx = random_choices(np.random.default_rng(tokens), tokens, topk, experts)
    for threads in (1, 2, 3):
        row_index, offsets, slot = route(level, idx, experts, threads)
        order = np.argsort(idx.ravel(), kind="stable")
        np.testing.assert_array_equal(row_index, order // topk)
        np.testing.assert_array_equal(slot.ravel()[order], np.arange(tokens * topk))
        counts = np.bincount(idx.ravel(), minlength=experts)
        np.testing.assert_array_equal(offsets, [0, *np.cumsum(counts)])


def combine(level: str, y: np.ndarray, slot: np.ndarray, weights: np.ndarray, threads: int = 2):
    tokens, topk = slot.shape
    n = y.shape[1]
    out = np.full((tokens + 1, n + 3), POISON, np.float32)
    call(level, "combine_experts", threads, [tokens, topk, n, n + 3], [], [y, slot, weights, out])
    assert (out[-1] == POISON).all()
    assert (out[:, n:] == POISON).all()
    return out[:-1, :n].copy()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 8, 63, 64, 65, 576])
def test_combining_weights_and_adds(level: str, n: int):
    rng = np.random.default_rng(n)
    for tokens, topk in [(1, 1), (1, 8), (7, 2), (33, 4)]:
        idx = random_choices(rng, tokens, topk, 16)
        _, _, slot = route(level, idx, 16)
        y = rng.standard_normal((tokens * topk, n)).astype(np.float32)
        weights = rng.uniform(0, 1, (tokens, topk)).astype(np.float32)
        got = combine(level, y, np.ascontiguousarray(slot), weights)
        want = np.einsum("tj,tjn->tn", weights.astype(np.float64), y[slot].astype(np.float64))
        # A sum of at most 8 products of size 1, each rounded twice.
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
        for threads in (1, 3):
            again = combine(level, y, np.ascontiguousarray(slot), weights, threads)
            np.testing.assert_array_equal(got, again)
        for t in (0, tokens - 1):  # alone, from a sorted buffer of its own
            order = np.argsort(idx[t], kind="stable")
            own = np.argsort(order).astype(np.int32)[None]
            alone = combine(level, np.ascontiguousarray(y[slot[t][order]]), own, weights[t : t + 1])
            np.testing.assert_array_equal(alone[0], got[t])
