"""Races planted in the plan of a whole model are found, wherever they are."""

from __future__ import annotations

from typing import Any

import pytest
from llmc.artifact.launch_plan import LaunchPlan, Pointer
from llmc.base.errors import LlmcError
from llmc.codegen.triton.check_plan import check_plan
from msgspec.structs import replace
from planned_program import planned
from zoo import find


@pytest.fixture(scope="module")
def real() -> tuple[LaunchPlan, int]:
    """The plan for SM90, which passes, or lowering would have failed; and the arena's bytes."""
    compiled = planned(find("llama"), "int8").compiled
    return compiled.plans["sm90"].plan, compiled.generated.memory.arena_bytes


def reads(plan: LaunchPlan) -> list[tuple[int, int, Pointer]]:
    """Launch, argument and pointer of all that is read from the arena."""
    return [
        (at, number, argument)
        for at, launch in enumerate(plan.launches)
        for number, argument in enumerate(launch.arguments)
        if isinstance(argument, Pointer) and argument.space == "arena" and "r" in argument.access
    ]


def passes(plan: LaunchPlan, arena: int, at: int, number: int, **changes: Any) -> bool:
    arguments = list(plan.launches[at].arguments)
    arguments[number] = replace(arguments[number], **changes)
    launches = list(plan.launches)
    launches[at] = replace(launches[at], arguments=arguments)
    try:
        check_plan(replace(plan, launches=launches), arena)
    except LlmcError:
        return False
    return True


def test_every_shifted_read_is_found(real: tuple[LaunchPlan, int]) -> None:
    plan, arena = real
    shifts = [(at, n, p.offset + by) for at, n, p in reads(plan) for by in (64, -64)]
    assert len(shifts) > 100
    assert [s for s in shifts if s[2] >= 0 and passes(plan, arena, *s[:2], offset=s[2])] == []


def test_every_early_read_is_found(real: tuple[LaunchPlan, int]) -> None:
    """Each is of what the step made: with `early` it begins before that is over."""
    plan, arena = real
    assert all(kernel.overlaps for kernel in plan.kernels if not kernel.cooperative)
    assert [r for r in reads(plan) if passes(plan, arena, *r[:2], early=True)] == []
