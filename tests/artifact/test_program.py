"""What a step gives is fetched when it is read, and once."""

import numpy as np
import pytest
from llmc.artifact.program import StepOutputs

LOGITS = np.array([[0.5, 3.0, -1.0], [2.0, 1.0, 2.5]], np.float32)


def test_logits_are_fetched_when_they_are_first_read_and_once():
    fetched = []

    def fetch() -> np.ndarray:
        fetched.append(LOGITS.copy())
        return fetched[-1]

    outputs = StepOutputs(fetch, [1, 2])
    assert outputs.argmax == [1, 2]
    assert not fetched
    outputs.logits[0, 0] = 9
    assert outputs.logits[0, 0] == 9
    assert len(fetched) == 1
    assert outputs.argmax == [1, 2]


def test_an_argmax_that_the_program_does_not_give_is_that_of_its_logits():
    outputs = StepOutputs.of(LOGITS.copy())
    assert outputs.argmax == [1, 2]
    outputs.logits[:] = 0  # as drawing may
    assert outputs.argmax == [1, 2]
    assert outputs.draw is None


@pytest.mark.parametrize("vocab", [1, 3])
def test_a_step_without_rows_has_no_argmax(vocab):
    assert StepOutputs.of(np.empty((0, vocab), np.float32)).argmax == []
