"""The load generator, on a clock of the test's own."""

from itertools import pairwise

import pytest
from llmc.benchmarks.serving_bench.drivers.serving_load import Load, plan, run
from llmc.benchmarks.serving_bench.statistics import gaps

pytestmark = pytest.mark.fast


class Clock:
    """Time passes when somebody sleeps or steps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Machine:
    """Gives every running request a token a step, which takes 0.1 s."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.left: dict[int, int] = {}
        self.made: dict[int, int] = {}
        self.most = 0

    def add(self, key: int, prompt: list[int], output: int) -> None:
        assert prompt
        self.left[key], self.made[key] = output, 0

    def step(self) -> list[tuple[int, int]]:
        assert self.left, "a step without work"
        self.clock.now += 0.1
        self.most = max(self.most, len(self.left))
        news = []
        for key in list(self.left):
            self.made[key] += 1
            news.append((key, self.made[key]))
            if self.made[key] == self.left[key]:
                del self.left[key]
        return news


def _run(load: Load) -> tuple[list, Machine]:
    clock = Clock()
    machine = Machine(clock)
    return run(machine, plan(load), load.streams, clock=clock, sleep=clock.sleep), machine


def test_a_plan_is_the_same_for_everybody_and_another_for_another_seed() -> None:
    load = Load(3, 20, rate=2.0)
    assert plan(load) == plan(load)
    assert plan(load) != plan(Load(4, 20, rate=2.0))


def test_open_loops_arrive_at_the_rate_in_order() -> None:
    planned = plan(Load(1, 2000, rate=5.0))
    moments = [one.at for one in planned]
    assert all(a < b for a, b in pairwise(moments))
    assert 0.9 < len(moments) / moments[-1] / 5.0 < 1.1
    assert all(32 <= len(one.prompt) <= 256 and 16 <= one.output <= 96 for one in planned)


def test_closed_loops_keep_so_many_under_way() -> None:
    records, machine = _run(Load(1, 30, streams=4))
    assert machine.most == 4
    assert len(records) == 30
    assert [len(one.tokens) for one in records] == [p.output for p in plan(Load(1, 30, streams=4))]


def test_an_open_loop_s_clock_starts_when_the_request_comes_not_when_it_is_noticed() -> None:
    load = Load(1, 40, rate=20.0)
    records, machine = _run(load)
    assert machine.most > 4
    assert [round(one.arrived - 100, 6) for one in records] == [round(p.at, 6) for p in plan(load)]
    waited = [one.tokens[0] - one.arrived for one in records]
    assert min(waited) > 0
    assert max(waited) > 0.1, "some came while a step ran, and that counts as waiting"
    assert all(abs(gap - 0.1) < 1e-9 for one in records for gap in gaps(one.tokens))


def test_an_open_loop_sleeps_while_there_is_nothing_to_do() -> None:
    records, machine = _run(Load(1, 3, rate=0.01, output=(2, 2)))
    assert machine.most == 1
    assert all(abs(one.tokens[0] - one.arrived - 0.1) < 1e-6 for one in records)
