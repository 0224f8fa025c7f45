"""The memory plan: near its lower bound, never wrong, and the verifier sees what is wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.ir.plan import ALIGNMENT, Access, Buffer, MemoryPlan, Placement, Schedule, Step
from llmc.passes.place_barriers import place_barriers
from llmc.passes.plan_memory import plan_memory
from llmc.passes.verify_plan import verify_plan

pytestmark = pytest.mark.fast


def schedule_of(*steps: tuple[str, str], sizes: dict[str, int] | None = None) -> Schedule:
    """Steps as ("reads", "writes"), buffers are letters; capitals are external."""
    schedule = Schedule("test")
    for reads, writes in steps:
        for name in reads + writes:
            nbytes = (sizes or {}).get(name, 256)
            schedule.buffers[name] = Buffer(name, nbytes, external=name.isupper())
        schedule.steps.append(Step("step", _accesses(reads), _accesses(writes)))
    return schedule


def _accesses(names: str, lane: str = "") -> tuple[Access, ...]:
    return tuple(Access(name, lane) for name in names)


def plan_all(schedule: Schedule) -> tuple[MemoryPlan, frozenset[int]]:
    plan = plan_memory(schedule)
    return plan, place_barriers(schedule, plan)


def random_schedule(seed: int) -> Schedule:
    """A graph like a model's: a long residual, short branches, scratch, some in place."""
    generator = random.Random(seed)
    schedule = Schedule("random")
    alive: list[str] = []
    for index in range(generator.randint(2, 40)):
        reads = generator.sample(alive, min(len(alive), generator.randint(0, 3)))
        made = [f"b{index}.{i}" for i in range(generator.choice([1, 1, 1, 2, 3]))]
        for name in made:
            size = generator.choice([1, 64, 300, 4096, 100_000]) * generator.randint(1, 9)
            schedule.buffers[name] = Buffer(name, size)
        pairs = tuple((m, r) for m in made for r in reads if generator.random() < 0.4)
        lane = generator.choice(["", "T:4"])
        step = Step("step", tuple(Access(r, lane) for r in reads), tuple(Access(m) for m in made))
        delivers = frozenset(m for m in made if generator.random() < 0.2)
        schedule.steps.append(Step(step.name, step.reads, step.writes, pairs, delivers))
        alive += made
        while len(alive) > generator.randint(2, 8):
            alive.pop(generator.randrange(len(alive)))
    return schedule


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_random_schedules_are_planned_tightly_and_correctly(seed: int) -> None:
    schedule = random_schedule(seed)
    plan, barriers = plan_all(schedule)
    verify_plan(schedule, plan, barriers)
    assert plan.arena_bytes <= 1.15 * plan.largest_live
    assert all(p.offset % ALIGNMENT == 0 for p in plan.placements.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_every_barrier_is_needed(seed: int) -> None:
    schedule = random_schedule(seed)
    plan, barriers = plan_all(schedule)
    for barrier in barriers:
        with pytest.raises(LlmcError, match="no barrier"):
            verify_plan(schedule, plan, barriers - {barrier})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_moved_buffers_are_noticed(seed: int) -> None:
    """Put a buffer where another lies whose content is still wanted: the verifier refuses."""
    schedule = random_schedule(seed)
    plan = plan_memory(schedule)
    for a, b in conflicting(schedule, plan)[:5]:
        place = plan.placements[a]
        moved = Placement(plan.placements[b].offset, place.nbytes, place.first, place.last)
        size = max(plan.arena_bytes, moved.end)
        wrong = MemoryPlan(plan.placements | {a: moved}, size, plan.largest_live)
        with pytest.raises(LlmcError) as error:
            verify_plan(schedule, wrong, range(len(schedule.steps)))
        assert error.value.id == "LLMC-E0103"


def conflicting(schedule: Schedule, plan: MemoryPlan) -> list[tuple[str, str]]:
    """Pairs in different places of which both were written before both are used last."""
    uses: dict[str, list[int]] = {}
    for index, step in enumerate(schedule.steps):
        for access in step.touched:
            uses.setdefault(access.buffer, []).append(index)
    return [
        (a, b)
        for a in uses
        for b in uses
        if plan.placements[a].offset != plan.placements[b].offset
        and max(uses[a][0], uses[b][0]) < min(uses[a][-1], uses[b][-1])
    ]


def test_the_sample_has_conflicts() -> None:
    found = [conflicting(s, plan_memory(s)) for s in map(random_schedule, range(20))]
    assert sum(map(bool, found)) > 10


def test_what_is_delivered_is_read_without_a_barrier_but_not_overwritten() -> None:
    schedule = schedule_of(("", "A"), ("A", "B"), ("", "A"))
    first, *rest = schedule.steps
    schedule.steps[:] = [Step("step", first.reads, first.writes, (), frozenset("A")), *rest]
    _, barriers = plan_all(schedule)
    assert barriers == {2}


def test_chain_needs_two_places() -> None:
    schedule = schedule_of(("", "a"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "Y"))
    plan, barriers = plan_all(schedule)
    assert plan.arena_bytes == plan.largest_live == 512
    assert barriers == {1, 2, 3, 4}


def test_result_takes_the_place_of_a_dying_operand() -> None:
    schedule = schedule_of(("", "a"), ("a", "b"), ("b", "Y"))
    step = schedule.steps[1]
    schedule.steps[1] = Step("add", step.reads, step.writes, in_place=(("b", "a"),))
    plan, barriers = plan_all(schedule)
    assert plan.arena_bytes == 256
    assert plan.placements["a"] == plan.placements["b"]
    verify_plan(schedule, plan, barriers)


def test_operand_that_is_read_later_keeps_its_place() -> None:
    schedule = schedule_of(("", "a"), ("a", "b"), ("ab", "Y"))
    step = schedule.steps[1]
    schedule.steps[1] = Step("add", step.reads, step.writes, in_place=(("b", "a"),))
    assert plan_memory(schedule).arena_bytes == 512


def test_same_rows_need_no_barrier() -> None:
    schedule = schedule_of(("X", "a"), ("a", "b"), ("b", "Y"))
    schedule.steps = [
        Step(s.name, _accesses("".join(a.buffer for a in s.reads), "T:4"),
             _accesses("".join(a.buffer for a in s.writes), "T:4"))
        for s in schedule.steps
    ]  # fmt: skip
    assert plan_all(schedule)[1] == frozenset()


def test_reuse_of_memory_needs_a_barrier() -> None:
    """c takes the place of a: a thread still reading a must not be overtaken."""
    schedule = schedule_of(("", "a"), ("a", "X"), ("", "c"), ("c", "Y"))
    assert plan_all(schedule)[1] == {1, 2, 3}


def test_aliased_externals_need_a_barrier() -> None:
    schedule = schedule_of(("X", "a"), ("", "Y"))
    assert plan_all(schedule)[1] == frozenset()
    schedule.aliases.add(frozenset("XY"))
    assert plan_all(schedule)[1] == {1}


def test_read_before_write_is_refused() -> None:
    schedule = schedule_of(("a", "b"), ("b", "Y"))
    plan, barriers = plan_all(schedule)
    with pytest.raises(LlmcError, match="a is read after it was overwritten"):
        verify_plan(schedule, plan, barriers)


def test_lower_bound_is_the_largest_live_set() -> None:
    sizes = {"a": 64, "b": 128, "c": 1000}
    schedule = schedule_of(("", "a"), ("", "b"), ("ab", "c"), ("c", "Y"), sizes=sizes)
    assert plan_memory(schedule).largest_live == 64 + 128 + 1024
