"""Log-probabilities of chosen and of the most likely tokens, for many rows at once."""

from collections.abc import Sequence

import numpy as np
import pytest
from llmc.artifact.choice import Choice
from llmc.artifact.program import StepOutputs
from llmc.runtime.engine.sampling.logprobs import of_rows
from llmc.runtime.engine.sampling.prompt_logprobs import of_step

pytestmark = pytest.mark.fast


def exact(row: np.ndarray) -> np.ndarray:
    wide = row.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_rows_against_float64(scale: float):
    rng = np.random.default_rng(0)
    logits = (rng.normal(0, 1, (7, 501)) * scale).astype(np.float32)
    targets = rng.integers(0, 501, 7).tolist()
    before = logits.copy()
    for row, target, got in zip(logits, targets, of_rows(logits, targets, 5), strict=True):
        want = exact(row)
        assert got.token_id == target
        assert got.logprob == pytest.approx(want[target], rel=1e-5, abs=1e-5)
        best = np.argsort(-row, kind="stable")[:5]  # equals by id
        assert [i for i, _ in got.top] == best.tolist()
        np.testing.assert_allclose([p for _, p in got.top], want[best], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits, before)


def test_as_many_alternatives_as_there_are():
    logits = np.array([[0.0, 1.0]], np.float32)
    assert of_rows(logits, [0], 0)[0].top == ()
    assert [i for i, _ in of_rows(logits, [0], 20)[0].top] == [1, 0]


def test_a_masked_token_is_impossible():
    logits = np.array([[0.0, -np.inf]], np.float32)
    got = of_rows(logits, [1], 2)[0]
    assert got.logprob == -np.inf
    assert got.top == ((0, 0.0),)


def test_of_a_step_with_and_without_native_code():
    logits = np.random.default_rng(1).normal(size=(5, 50)).astype(np.float32)
    want = of_rows(logits[[1, 3]], [4, 5], 2)

    def draw(choices: Sequence[Choice]) -> None:
        for choice in choices:
            report = of_rows(logits[[choice.row]], [choice.target], choice.top)[0]
            choice.token, choice.logprob = choice.target, report.logprob
            choice.alternatives = list(report.top)

    def no_logits() -> np.ndarray:
        raise AssertionError("native code reads them where they are")

    assert of_step(StepOutputs.of(logits), [1, 3], [4, 5], 2) == want
    assert of_step(StepOutputs(no_logits, draw=draw), [1, 3], [4, 5], 2) == want
