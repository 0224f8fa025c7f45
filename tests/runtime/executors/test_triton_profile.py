"""Times of launches, on a GPU in host memory where everything takes a microsecond."""

from itertools import pairwise

import pytest
from fake_gpu import FakeGpu
from llmc.runtime.api.profile import RecordedStep, summarize
from llmc.runtime.executors.cpu_profile import END
from toy_plan import best, inputs_for, prompts_of, toy_executor, toy_kernels, toy_plan


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_every_launch_of_a_step_is_timed(seed: int | None) -> None:
    gpu = FakeGpu(toy_kernels(), seed=seed)
    program = toy_executor(gpu)
    profiler = program.profiler()
    small, large = inputs_for(prompts_of(5), [1]), inputs_for(prompts_of(17), [17])
    profiler.start()
    assert program.step(inputs_for(prompts_of(4), [4])).argmax == [best(prompts_of(4)[0])]
    first = profiler.stop()
    assert [number for number, _ in first] == [0, 1, 2, 3, END]  # the fifth is for large steps
    steps = []
    for inputs in (small, large):
        profiler.start()
        assert program.step(inputs).argmax
        steps.append(RecordedStep(inputs, profiler.stop()))
    assert [number for number, _ in steps[1].marks] == [0, 1, 2, 3, 4, END]
    for step in steps:
        times = [time for _, time in step.marks]
        assert times[0] == 0
        assert all(1000 <= b - a <= 2000 for a, b in pairwise(times))
    assert not gpu.done.calls["replay"]
    profile = summarize(steps, profiler.kernels, 1.0)
    assert {row.kernel for row in profile.rows} >= {"look_up", "hash_rows", "count_large"}
    program.step(small)
    assert gpu.done.calls["replay"] == 1
    program.close()


def test_steps_without_launches_and_the_memory_s_speed() -> None:
    program = toy_executor(plan=toy_plan(launches=[], sampling=[]))
    profiler = program.profiler()
    profiler.start()
    assert profiler.stop() == []
    assert program.memory_read_gbs() > 0
    program.close()
