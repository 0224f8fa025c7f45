"""Filters against a direct computation from their definitions, and the random stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.engine.sampler import RowSampler
from llmc.runtime.engine.sampling import SamplingParams
from llmc.runtime.errors import LlmcError


def kept(logits: np.ndarray, p: SamplingParams) -> dict[int, float]:
    """Probabilities after all filters, straight from the definitions."""
    x = logits.astype(np.float64) / p.temperature
    order = np.argsort(-x, kind="stable")
    if p.top_k:
        order = order[: p.top_k]
    probs = np.exp(x[order] - x.max())
    probs /= probs.sum()
    chosen, mass = [], 0.0
    for i, prob in enumerate(probs):
        if p.top_p == 1 or mass < p.top_p:
            chosen.append(i)
        mass += prob
    chosen = [i for i in chosen if probs[i] >= p.min_p * probs[0]]
    total = probs[chosen].sum()
    return {int(order[i]): float(probs[i] / total) for i in chosen}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3),
    top_k=st.sampled_from([0, 1, 2, 7, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
def test_candidates_and_weights_are_those_of_the_definitions(
    seed, temperature, top_k, top_p, min_p
):
    logits = np.random.default_rng(seed).normal(0, 2, 3000).astype(np.float32)
    params = SamplingParams(temperature, top_k, top_p, min_p)
    ids, weights = RowSampler(params)._candidates(logits, float(logits.max()))
    want = kept(logits, params)
    got = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    # An id whose mass lies within rounding of top_p may fall either way.
    differing = [want.get(i, 0) + got.get(i, 0) for i in want.keys() ^ got.keys()]
    assert len(differing) <= 1
    assert sum(differing) < 2e-3
    for i in want.keys() & got.keys():
        assert got[i] == pytest.approx(want[i], rel=1e-2)


def test_frequencies_follow_the_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = RowSampler(SamplingParams(temperature=1.0, seed=3))
    counts = np.bincount([sampler.sample(logits, 0) for _ in range(4000)], minlength=4)
    # Standard deviation of the largest count is 32 of 4000; 4 of them.
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.032)


def test_greedy_takes_the_programs_argmax():
    assert RowSampler(SamplingParams()).sample(np.array([1, 3, 2], np.float32), 1) == 1


def test_the_repetition_penalty_is_transformers():
    logits = np.array([2.0, -1.0, 1.9, -3.0], np.float32)
    sampler = RowSampler(SamplingParams(repetition_penalty=2.0), [0, 1])
    np.testing.assert_array_equal(
        sampler._penalized(logits), np.array([1.0, -2.0, 1.9, -3.0], np.float32)
    )
    assert sampler.sample(logits, 0) == 2
    assert sampler.sample(logits, 0) == 0  # 2 was seen now: 1.0 against 0.95
    np.testing.assert_array_equal(logits, np.array([2.0, -1.0, 1.9, -3.0], np.float32))


def test_seeds():
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)

    def draw(seed):
        sampler = RowSampler(SamplingParams(temperature=2.0, seed=seed))
        return [sampler.sample(logits, 0) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(LlmcError, match="E0205"):
        SamplingParams(**bad)
