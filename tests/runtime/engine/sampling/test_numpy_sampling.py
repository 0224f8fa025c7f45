"""The reference of drawing, against transformers' own processors and against the definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.choice import NOTHING, Choice, Edits
from llmc.runtime.engine.sampling import numpy_sampling as drawing

pytestmark = pytest.mark.fast

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


def kept_by(x: np.ndarray, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens may be drawn, and their probabilities (0 for the others)."""
    kept, weights = drawing.candidates(x, x > -np.inf, x.max(), choice)
    probabilities = np.where(kept, weights, 0).astype(np.float64)
    return kept, probabilities / probabilities.sum()


def transformers_probabilities(x: np.ndarray, choice: Choice) -> np.ndarray:
    scores = torch.tensor(x, dtype=torch.float64)[None]
    processors = [transformers.TemperatureLogitsWarper(choice.temperature)]
    if choice.top_k:
        processors.append(transformers.TopKLogitsWarper(choice.top_k))
    if choice.top_p < 1:
        processors.append(transformers.TopPLogitsWarper(choice.top_p))
    if choice.min_p:
        processors.append(transformers.MinPLogitsWarper(choice.min_p))
    if choice.typical_p < 1:
        processors.append(transformers.TypicalLogitsWarper(choice.typical_p))
    for processor in processors:
        scores = processor(None, scores)
    return scores.softmax(-1)[0].numpy()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1, 2, 17, 3000]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 7, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    typical_p=st.sampled_from([1.0, 0.05, 0.5, 0.95]),
)
def test_filters_are_those_of_transformers(seed, size, temperature, top_k, top_p, min_p, typical_p):
    x = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    choice = Choice(0, temperature, top_k, top_p, min_p, typical_p)
    _, got = kept_by(x, choice)
    want = transformers_probabilities(x, choice)
    # A token whose mass lies within rounding of a limit may fall either way, and with it the part
    # of the others; it happens where a limit is hit exactly (a mass of 0.5 of two equal tokens).
    # What float32 rounds to a mass of 0 is no difference: at temperature 0.1 float64 still has it.
    differing = ((got > 0) != (want > 0)) & (np.maximum(got, want) > 1e-30)
    if differing.any():
        assert differing.sum() == 1
        assert is_at_the_limit(x, choice, differing)
    else:
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-9)


def is_at_the_limit(x: np.ndarray, choice: Choice, token: np.ndarray) -> bool:
    """Whether a change of the limits by 1e-5 decides about `token`."""
    few = Choice(0, choice.temperature, choice.top_k, choice.top_p * (1 - 1e-5),
                 min(1, choice.min_p * (1 + 1e-5)), choice.typical_p * (1 - 1e-5))  # fmt: skip
    many = Choice(0, choice.temperature, choice.top_k, min(1, choice.top_p * (1 + 1e-5)),
                  choice.min_p * (1 - 1e-5), min(1, choice.typical_p * (1 + 1e-5)))  # fmt: skip
    return bool((kept_by(x, few)[0] != kept_by(x, many)[0])[token].all())


def test_equal_logits_are_kept_together():
    x = np.array([1, 3, 3, 3, 0], np.float32)
    for choice in (Choice(temperature=1, top_k=2), Choice(temperature=1, top_p=0.4)):
        assert kept_by(x, choice)[0].tolist() == [False, True, True, True, False]
    assert kept_by(x, Choice(temperature=1e9, top_k=3))[0].sum() == 3


def test_the_token_is_found_along_the_ids():
    x = np.log(np.array([0.1, 0.2, 1.0, 0.3, 0.4], np.float32))
    x[2] = -np.inf
    places = [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.299, 1), (0.301, 3), (0.61, 4), (0.9999999, 4)]
    for uniform, token in places:
        assert drawing.token_of(x, Choice(temperature=1.0, uniform=uniform)) == token


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_odd_rows(temperature: float, uniform: float):
    nan, inf = float("nan"), float("inf")
    one_left = np.array([-inf, nan, -2.0, -inf], np.float32)
    options: dict[str, Any] = {
        "temperature": temperature,
        "uniform": uniform,
        "typical_p": 0.5,
        "top_p": 0.5,
    }
    assert drawing.token_of(one_left, Choice(**options)) == 2
    assert drawing.token_of(np.array([1, inf, 2, inf], np.float32), Choice(**options)) == 1
    for nothing in (nan, -inf):
        assert drawing.token_of(np.full(9, nothing, np.float32), Choice(**options)) == NOTHING


def test_edits_and_masks_come_in_their_order():
    x = np.array([2.0, -1.0, 1.0, -3.0, 5.0, 6.0], np.float32)
    edits = Edits()
    edits.penalize([0, 1, 2], 2.0)
    edits.bias[edits.at(2)] = -3.0  # before the penalty: 1 - 3 = -2, times 2
    edits.minus[edits.at(3)] = 0.5
    allowed = memoryview(bytes([0b101111, 0, 0, 0]))
    drawing.change(x, Choice(edits=edits, allowed=allowed, forbidden=[5]))
    np.testing.assert_array_equal(x, [1.0, -2.0, -4.0, -3.5, -np.inf, -np.inf])


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"top_k": 3}, {"typical_p": 0.7}])
def test_frequencies_follow_the_probabilities(options: dict[str, Any]):
    """Chi-square over all tokens, below its 99.9 % point; the numbers are always the same."""
    from llmc.runtime.engine.sampling.request_state import mix, uniform

    x = np.random.default_rng(1).normal(0, 1, 9).astype(np.float32)
    choice = Choice(temperature=1.3, **options)
    kept, probabilities = kept_by(x, choice)
    count, seed = 20_000, mix(5)
    drawn = [
        drawing.token_of(x, Choice(temperature=1.3, uniform=uniform(seed, i), **options))
        for i in range(count)
    ]
    seen = np.bincount(drawn, minlength=len(x))
    assert seen[~kept].sum() == 0
    expected = probabilities[kept] * count
    assert ((seen[kept] - expected) ** 2 / expected).sum() < 26.1  # 8 degrees of freedom
