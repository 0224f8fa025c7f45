"""Launch plans of strangers: what no GPU should be told is refused before it is."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fake_gpu import FakeGpu, FakeKernel, FakeLaunch
from llmc.artifact.launch_plan import (
    NO_KERNEL,
    Extent,
    FormLaunch,
    LaunchPlan,
    Number,
    Pointer,
    Region,
    Size,
    parameter_layout,
)
from llmc.artifact.launch_plan_check import Surroundings, plan_problem
from llmc.base.errors import LlmcError
from toy_plan import (
    COLUMNS,
    CUBINS,
    KEPT,
    STEP,
    WEIGHTS,
    inputs_for,
    prompts_of,
    toy_executor,
    toy_plan,
    toy_triton_variant,
)

HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**53 - 1, 2**53, 10**30, -1, 0, 1, 3, 1e300)
WORDS = ("", "T", "S", "R", "r", "w", "rw", "arena", "weights", "cache", "step", "kept", "i32")


def problem_of(plan: LaunchPlan) -> str | None:
    variant = toy_triton_variant(plan)
    around = Surroundings(
        program_bytes=len(CUBINS),
        spaces={"arena": variant.memory_plan.arena_bytes, "weights": len(WEIGHTS)},
        block_bytes=[group.bytes_per_block for group in variant.cache_groups],
        limits=variant.limits,
        vocab_size=variant.vocab_size,
    )
    return plan_problem(plan, around)


def with_launch(number: int = 0, **changes: Any) -> LaunchPlan:
    plan = toy_plan()
    launches = list(plan.launches)
    launches[number] = msgspec.structs.replace(launches[number], **changes)
    return toy_plan(launches=launches)


def with_argument(place: int, argument: Any) -> LaunchPlan:
    """`look_up` with another argument: ids, table, values, vocabulary, tokens."""
    arguments = list(toy_plan().launches[0].arguments)
    arguments[place] = argument
    return with_launch(arguments=arguments)


def with_kernel(**changes: Any) -> LaunchPlan:
    first, *others = toy_plan().kernels
    return toy_plan(kernels=[msgspec.structs.replace(first, **changes), *others])


def on_grid(*grid: Extent) -> LaunchPlan:
    return with_launch(forms=[FormLaunch(0, grid), FormLaunch(NO_KERNEL)])  # type: ignore[arg-type]


ONE, LARGE = Extent(), Extent(scale=2**31)


@pytest.mark.parametrize(
    ("plan", "cause"),
    [
        (with_argument(1, Pointer("weights", 4, len(WEIGHTS))), "points outside weights"),
        (with_argument(2, Pointer("arena", 2**52, 0)), "points outside arena"),
        (with_argument(1, Pointer("cache", 0, 8, group=2)), "points outside cache"),
        (with_argument(0, Pointer("step", 0, 4, "w")), "writes to step"),
        (with_argument(1, Pointer("weights", 0, 4, "rw")), "writes to weights"),
        (with_argument(3, Number(2**63, "i64")), "a number that is too large"),
        (with_argument(3, Number(0.5, "i64")), "a number that is too large"),
        (with_argument(3, Number(1, "i32")), "not 56"),
        (with_argument(4, Size(Extent("T", scale=2**31 // 48 + 1))), "a number that is too large"),
        (with_argument(3, Number(1e39, "f32")), "a number that is too large"),
        (with_launch(arguments=[Pointer("weights", 0, 1)] * 4200), "too many arguments"),
        (with_launch(forms=[FormLaunch(0)]), "has 1 forms"),
        (with_launch(forms=[FormLaunch(7)] * 2), "a kernel that isn't there"),
        (with_launch(forms=[FormLaunch(1)] * 2), "56 bytes of parameters, not"),
        (on_grid(LARGE, ONE, ONE), "a grid that is too large"),
        (on_grid(ONE, Extent("T", scale=1366), ONE), "a grid that is too large"),
        (on_grid(ONE, ONE, Extent("R", add=2**16)), "a grid that is too large"),
        (with_kernel(offset=len(CUBINS) - 15), "kernel 0 lies outside the program"),
        (with_kernel(nbytes=0), "kernel 0 lies outside the program"),
        (with_kernel(name="look\0up"), "kernel 0 has no name of a function"),
        (with_kernel(threads=33), "kernel 0 is larger"),
        (with_kernel(shared=2**40), "kernel 0 is larger"),
        (with_kernel(parameter_bytes=0), "not 0"),
        (toy_plan(forms=[8, 8]), "forms don't rise"),
        (toy_plan(forms=[]), "forms don't rise"),
        (toy_plan(columns=COLUMNS - 1), "the context's width"),
        (toy_plan(columns=2**30), "the context's width"),
        (toy_plan(step=STEP | {"table.2": Region(2048, 4)}), "table.2 is nothing of a step"),
        (toy_plan(step=STEP | {"positions": Region(254, 192)}), "positions lies outside step"),
        (toy_plan(step=STEP | {"positions": Region(188, 192)}), "positions lies on token_ids"),
        (toy_plan(step=STEP | {"table.0": Region(1280, 4)}), "table.0 is too small"),
        (toy_plan(step_bytes=2048), "table.1 lies outside step"),
        (toy_plan(kept=KEPT | {"count": Region(16, 4)}), "count lies on argmax"),
        (toy_plan(kept=KEPT | {"logits": Region(512, 64)}), "logits is too small"),
        (toy_plan(kept=KEPT | {"tokens": Region(16384, 4)}), "tokens is too small"),
        (toy_plan(kept={k: v for k, v in KEPT.items() if k != "results"}), "no results in kept"),
    ],
)
def test_what_a_plan_must_not_say(plan: LaunchPlan, cause: str) -> None:
    assert cause in (problem_of(plan) or "")


def test_a_plan_as_it_should_be() -> None:
    assert problem_of(toy_plan()) is None
    greedy = {k: v for k, v in KEPT.items() if k not in ("choices", "results", "tokens")}
    assert problem_of(toy_plan(sampling=[], kept=greedy)) is None


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every number and word in plain data."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value)
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            yield content, key


def mutated(plan: LaunchPlan, rng: random.Random) -> LaunchPlan | None:
    """The plan with one or two values changed; None if it isn't even one of its schema."""
    content = msgspec.to_builtins(plan)
    for _ in range(rng.randint(1, 2)):
        container, key = rng.choice(list(places(content)))
        if isinstance(container[key], str):
            container[key] = rng.choice(WORDS)
        else:
            near = container[key] + rng.choice((-64, -4, -1, 1, 4, 64))
            container[key] = near if rng.random() < 0.5 else rng.choice(HUGE)
    try:
        return msgspec.convert(content, LaunchPlan)
    except msgspec.ValidationError:
        return None


def idle(launch: FakeLaunch) -> None:
    """Does nothing."""


def idle_kernels(plan: LaunchPlan) -> dict[str, FakeKernel]:
    """Kernels that do nothing, with the parameters that the plan's launches give them. Of those
    that two launches share it isn't known what is a pointer."""
    kernels: dict[str, FakeKernel] = {}
    for launch in (*plan.launches, *plan.sampling):
        types = tuple(
            "ptr" if isinstance(a, Pointer) else "i32" if isinstance(a, Size) else a.dtype
            for a in launch.arguments
        )
        for form in launch.forms:
            if form.kernel != NO_KERNEL:
                name = plan.kernels[form.kernel].name
                same = name not in kernels or kernels[name].types == types
                words = parameter_layout(launch.arguments).size // 8 - 2  # two are for scratch
                kernels[name] = FakeKernel(types if same else ("i64",) * words, idle)
    return kernels


def test_a_changed_plan_is_refused_or_harmless() -> None:
    """What passes is loaded and run: `FakeGpu` complains about addresses outside of its memory,
    grids and parameters that no GPU takes. Anything but an `LlmcError` fails."""
    rng, counts = random.Random(5), {"schema": 0, "refused": 0, "ran": 0}
    step = inputs_for(prompts_of(5, 3), [5, 3])
    for _ in range(200):
        plan = mutated(toy_plan(), rng)
        if plan is None:
            counts["schema"] += 1
        elif problem_of(plan) is not None:
            counts["refused"] += 1
        else:
            try:
                program = toy_executor(FakeGpu(idle_kernels(plan)), plan=plan)
            except LlmcError:  # there isn't so much memory
                counts["refused"] += 1
                continue
            program.step(step)
            program.close()
            counts["ran"] += 1
    assert min(counts.values()) > 20, counts
