"""The checker of launch plans accepts what the memory planner makes, and finds planted races."""

from __future__ import annotations

import random
from itertools import combinations
from time import perf_counter
from typing import Any

import networkx as nx
import pytest
from llmc.artifact.launch_plan import NO_KERNEL, FormLaunch, Kernel, Launch, LaunchPlan, Pointer
from llmc.base.errors import LlmcError
from llmc.codegen.triton.check_plan import Touch, check_plan, find_races, order_of
from llmc.codegen.triton.written_bytes import Span, WrittenBytes
from llmc.ir.plan import Access, Buffer, Schedule, Step
from llmc.passes.plan_memory import plan_memory
from msgspec.structs import replace

pytestmark = pytest.mark.fast

WEIGHT = Pointer("weights", 0, 4096, "r", early=True)
TOKENS = Pointer("step", 0, 256, "r")
POOL = Pointer("cache", 512, 256, "rw", group=0)
LOGITS = Pointer("kept", 0, 1024, "w")
Sizes = tuple[int, int, list[int]]
"""What `check_plan` is told: bytes of the arena, of weights, of a block of each group."""

KERNELS = [
    Kernel(label="waits", name="k", offset=0, nbytes=1, threads=128, overlaps=True),
    Kernel(label="alone", name="k", offset=0, nbytes=1, threads=128),
]


def program(seed: int, launches: int) -> tuple[Schedule, list[tuple[list[int], int | None]]]:
    """Random launches: each reads up to three of the latest values and makes one, or replaces the
    first that it reads by a value in its place."""
    choose = random.Random(seed)
    schedule, chain = Schedule("step"), []
    for index in range(launches):
        reads = sorted({max(0, index - choose.randint(1, 6)) for _ in range(3)}) if index else []
        schedule.buffers[f"b{index}"] = Buffer(f"b{index}", choose.randint(1, 5000))
        in_place = reads[0] if reads and choose.random() < 0.3 else None
        pairs = () if in_place is None else ((f"b{index}", f"b{in_place}"),)
        read = tuple(Access(f"b{i}") for i in reads)
        schedule.steps.append(Step(f"n{index}", read, (Access(f"b{index}"),), pairs))
        chain.append((reads, in_place))
    return schedule, chain


def plan_of(seed: int = 0, launches: int = 40) -> tuple[LaunchPlan, Sizes]:
    """A plan whose arena the real planner laid out."""
    schedule, chain = program(seed, launches)
    memory = plan_memory(schedule)

    def pointer(index: int, access: str) -> Pointer:
        offset, nbytes = memory.placements[f"b{index}"].offset, schedule.buffers[f"b{index}"].nbytes
        return Pointer("arena", offset, nbytes, access)  # type: ignore[arg-type]

    rows = [FormLaunch(0), FormLaunch(0)]
    made = [
        Launch(
            label=f"n{index}",
            forms=rows,
            arguments=[*(pointer(i, "r") for i in reads), pointer(index, "w"), WEIGHT, POOL],
        )
        for index, (reads, _) in enumerate(chain)
    ]
    last = Launch(label="head", forms=rows, arguments=[pointer(launches - 1, "r"), TOKENS, LOGITS])
    plan = LaunchPlan(
        sm=90,
        kernels=KERNELS,
        forms=[8, 64],
        launches=[*made, last],
        step={},
        step_bytes=256,
        kept={},
        kept_bytes=1024,
        columns=4,
    )
    return plan, (memory.arena_bytes, 4096, [1024])


def with_argument(plan: LaunchPlan, at: int, number: int, **changes: Any) -> LaunchPlan:
    launch = plan.launches[at]
    arguments = list(launch.arguments)
    arguments[number] = replace(arguments[number], **changes)
    launches = list(plan.launches)
    launches[at] = replace(launch, arguments=arguments)
    return replace(plan, launches=launches)


def refusal(plan: LaunchPlan, sizes: Sizes) -> str:
    with pytest.raises(LlmcError) as raised:
        check_plan(plan, *sizes)
    assert raised.value.id == "LLMC-E0103"
    return raised.value.message


@pytest.mark.parametrize("seed", range(12))
def test_plans_of_the_memory_planner_pass(seed: int) -> None:
    plan, sizes = plan_of(seed)
    assert sizes[0] < sum(  # memory is used again, or there would be nothing to find
        argument.nbytes
        for launch in plan.launches
        for argument in launch.arguments
        if isinstance(argument, Pointer) and argument.access == "w"
    )
    check_plan(plan, *sizes)


def test_plans_of_a_thousand_launches_are_checked_in_seconds() -> None:
    schedule_free, sizes = plan_of(3, 250)
    launches = [it for _ in range(4) for it in schedule_free.launches]
    plan = replace(schedule_free, launches=launches)
    began = perf_counter()
    check_plan(plan, *sizes)
    assert perf_counter() - began < 20, "a guard against quadratic work, no measurement"


@pytest.mark.parametrize("seed", range(8))
def test_a_shifted_offset_is_found_wherever_it_is(seed: int) -> None:
    plan, sizes = plan_of(seed, 25)
    shifted = 0
    for at, launch in enumerate(plan.launches):
        for number, argument in enumerate(launch.arguments):
            if isinstance(argument, Pointer) and argument.space == "arena":
                used = argument.access == "r" or _is_read(plan, at, argument)
                for by in (64, -64):
                    if argument.offset + by >= 0 and used:
                        wrong = with_argument(plan, at, number, offset=argument.offset + by)
                        refusal(wrong, sizes)
                        shifted += 1
    assert shifted > 50


def _is_read(plan: LaunchPlan, at: int, written: Pointer) -> bool:
    """Whether a later launch reads just this value: of others a wrong place does no harm."""
    for launch in plan.launches[at + 1 :]:
        inside = [a for a in launch.arguments if isinstance(a, Pointer) and a.space == "arena"]
        same = [a for a in inside if (a.offset, a.nbytes) == (written.offset, written.nbytes)]
        if any("r" in a.access for a in same):
            return True
        if same:
            return False
    return False


@pytest.mark.parametrize("seed", range(4))
def test_an_early_read_of_what_the_step_makes_is_found(seed: int) -> None:
    plan, sizes = plan_of(seed, 25)
    found = 0
    for at, launch in enumerate(plan.launches):
        for number, argument in enumerate(launch.arguments):
            pointer = argument if isinstance(argument, Pointer) else WEIGHT
            if (pointer.space, pointer.access) == ("arena", "r"):
                message = refusal(with_argument(plan, at, number, early=True), sizes)
                assert "may run at the same time" in message
                assert f"({launch.label})" in message
                found += 1
    assert found > 20


def test_an_early_read_is_fine_behind_a_launch_that_waits_for_all() -> None:
    """The same read, with one launch between that doesn't overlap: the writer is over by then."""
    a, b = Pointer("arena", 0, 64, "w"), Pointer("arena", 64, 64, "w")
    reader = [Pointer("arena", 0, 64, "r", early=True)]

    def plan(middle: int) -> LaunchPlan:
        kernels = (0, middle, 0)
        arguments = ([a], [b], reader)
        launches = [
            Launch(label=f"n{i}", forms=[FormLaunch(kernel)], arguments=list(found))
            for i, (kernel, found) in enumerate(zip(kernels, arguments, strict=True))
        ]
        base, _ = plan_of(0, 2)
        return replace(base, forms=[8], launches=launches)

    sizes: Sizes = (128, 0, [])
    check_plan(plan(middle=1), *sizes)
    assert "n0" in refusal(plan(middle=0), sizes)


def test_a_cache_read_before_its_write_is_over_is_found() -> None:
    plan, sizes = plan_of(1, 6)
    number = plan.launches[4].arguments.index(POOL)
    early = with_argument(plan, 4, number, access="r", early=True)
    assert "cache 0" in refusal(early, sizes)
    elsewhere = with_argument(early, 4, number, offset=0, nbytes=512)
    check_plan(elsewhere, *sizes)


def test_a_launch_that_a_form_lacks_leaves_its_value_unwritten() -> None:
    plan, sizes = plan_of(2, 10)
    launches = list(plan.launches)
    launches[9] = replace(launches[9], forms=[FormLaunch(0), FormLaunch(NO_KERNEL)])
    assert "for up to 64 rows" in refusal(replace(plan, launches=launches), sizes)


def test_pointers_stay_in_their_spaces_and_write_where_they_may() -> None:
    plan, sizes = plan_of(5, 6)
    weight, pool = (plan.launches[3].arguments.index(it) for it in (WEIGHT, POOL))
    for number, changes, words in (
        (weight, {"offset": 1}, "byte 4097 of weights"),
        (weight, {"access": "w", "early": False}, "writes to weights"),
        (pool, {"offset": 800}, "byte 1056 of cache 0"),
        (pool, {"group": 1}, "cache 1"),
        (pool, {"early": True}, "before it waits"),
    ):
        assert words in refusal(with_argument(plan, 3, number, **changes), sizes)
    head = len(plan.launches) - 1
    assert "257 of step" in refusal(with_argument(plan, head, 1, offset=1), sizes)
    assert "1025 of kept" in refusal(with_argument(plan, head, 2, offset=1), sizes)
    assert "arena" in refusal(plan, (sizes[0] - 64, 4096, [1024]))


def test_kernels_and_forms_exist() -> None:
    plan, sizes = plan_of(5, 3)
    for forms, words in (([FormLaunch(0)], "1 forms"), ([FormLaunch(2)] * 2, "of 2")):
        launches = [replace(plan.launches[0], forms=forms), *plan.launches[1:]]
        assert words in refusal(replace(plan, launches=launches), sizes)


@pytest.mark.parametrize("seed", range(20))
def test_races_are_those_that_comparing_all_pairs_gives(seed: int) -> None:
    choose = random.Random(seed)
    nodes = [(i, part) for i in range(8) for part in ("early", "main")]
    order: Any = nx.DiGraph()
    order.add_nodes_from(nodes)
    for a, b in combinations(nodes, 2):
        if choose.random() < 0.15:
            order.add_edge(a, b)
    touches = []
    for _ in range(40):
        start = choose.randrange(30)
        end = start + choose.randint(1, 8)
        place = choose.choice(["arena", "kept"])
        touches.append(Touch(choose.choice(nodes), place, start, end, choose.random() < 0.3))  # type: ignore[arg-type]
    ordered = nx.transitive_closure(order)
    wanted = {
        frozenset((i, j))
        for (i, a), (j, b) in combinations(enumerate(touches), 2)
        if a.place == b.place
        and a.part != b.part
        and max(a.start, b.start) < min(a.end, b.end)
        and (a.writes or b.writes)
        and not (ordered.has_edge(a.part, b.part) or ordered.has_edge(b.part, a.part))
    }
    number = {id(touch): index for index, touch in enumerate(touches)}
    found = [frozenset((number[id(a)], number[id(b)])) for a, b in find_races(order, touches)]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert wanted


def test_a_dropped_dependence_is_a_race() -> None:
    """In the order of a plan, each edge between launches is needed by some memory."""
    plan, _ = plan_of(0, 4)
    order = order_of(plan, 0)
    a, b = (1, "main"), (2, "main")
    touches = [Touch(a, "arena", 0, 8, True), Touch(b, "arena", 4, 12, False)]  # type: ignore[arg-type]
    assert list(find_races(order, touches)) == []
    order.remove_edge(a, b)
    assert len(list(find_races(order, touches))) == 1


@pytest.mark.parametrize("seed", range(10))
def test_written_bytes_are_those_of_an_array(seed: int) -> None:
    """Against one entry a byte: who wrote it, and where that ended."""
    choose = random.Random(seed)
    written, array = WrittenBytes(), [None] * 60
    for writer in range(60):
        start = choose.randrange(59)
        span = Span(start, choose.randint(start + 1, 60))
        content: list[Any] = array[span.start : span.end]
        good = all(entry == span.end for entry in content)
        assert (written.unlike(span) is None) == good
        if choose.random() < 0.5:
            written.write(span, str(writer))
            array[span.start : span.end] = [span.end] * (span.end - span.start)  # type: ignore[list-item]
            assert written.unlike(span) is None
