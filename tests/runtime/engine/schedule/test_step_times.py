"""The times of steps are learnt from few of them, in any mixture, and from noisy ones."""

import random

import pytest
from llmc.runtime.engine.schedule.step_times import StepTimes

pytestmark = pytest.mark.fast


def seconds(decoding: int, prompt: int) -> float:
    return 0.003 + 0.0005 * decoding + 0.0006 * prompt


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_mixture_of_steps_tells_decoding_from_prompts(noise):
    source, times = random.Random(1), StepTimes()
    for _ in range(300):
        decoding, prompt = source.randrange(17), source.choice([0, 0, 8, 24, 512])
        disturbed = 1 + noise * (source.random() < 0.1) * 10 * source.random()
        times.add(decoding, prompt, seconds(decoding, prompt) * disturbed)
    share = 0.02 if noise == 0 else 0.35
    assert times.per_prompt_token == pytest.approx(0.0006, rel=share)
    assert times.alone(12) == pytest.approx(seconds(12, 0), rel=share)


def test_a_burst_learns_decoding_without_a_step_of_decoding_alone():
    """Prompts come all the time, and more and more sequences decode beside them."""
    times = StepTimes()
    for _ in range(20):
        times.add(1, 0, seconds(1, 0))
    times.add(0, 512, seconds(0, 512))
    for decoding in range(1, 17):
        for prompt in (20, 30):
            times.add(decoding, prompt, seconds(decoding, prompt))
    assert times.alone(16) == pytest.approx(seconds(16, 0), rel=0.1)


def test_what_recent_steps_do_not_tell_is_kept():
    times = StepTimes()
    for decoding in (1, 2, 4, 8, 16) * 4:
        times.add(decoding, 16 + decoding, seconds(decoding, 16 + decoding))
    for _ in range(500):
        times.add(8, 0, seconds(8, 0))
    assert times.alone(8) == pytest.approx(seconds(8, 0), rel=0.01)
    assert times.alone(16) == pytest.approx(seconds(16, 0), rel=0.3)
    assert times.per_prompt_token == pytest.approx(0.0006, rel=0.3)


def test_dearer_prompts_are_noticed_within_some_steps():
    times = StepTimes()
    for _ in range(30):
        times.add(8, 0, 0.007)
        times.add(8, 8, 0.007 + 8 * 0.0006)
    for _ in range(60):
        times.add(8, 8, 0.007 + 8 * 0.0015)
    assert times.per_prompt_token > 0.001
