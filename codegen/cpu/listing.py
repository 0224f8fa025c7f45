"""A program's schedule and memory plan as text, for who works on them (`LLMC_DUMP`).

main: 12 steps, 3 barriers, arena 81920 bytes
  3 | linear model.layers.0.mlp    reads b4 w7    writes b5
"""

from __future__ import annotations

from ...ir.plan import Step
from .bodies import Planned
from .program import Program


def listings(program: Program) -> dict[str, str]:
    """`schedule.txt` and `memory-plan.txt`."""
    parts = [program.main, *(body.planned for body in program.bodies)]
    return {
        "schedule.txt": "\n".join(map(_schedule, parts)),
        "memory-plan.txt": "\n".join(map(_plan, parts)),
    }


def _schedule(planned: Planned) -> str:
    """One line a step; `|` where threads wait before it."""
    steps = planned.function.schedule.steps
    lines = [
        f"{planned.function.name}: {len(steps)} steps, {len(planned.barriers)} barriers, "
        f"arena {planned.plan.arena_bytes} bytes"
    ]
    for number, step in enumerate(steps):
        wait = "|" if number in planned.barriers else " "
        lines.append(f"{number:5} {wait} {step.name}{_memory(step)}")
    return "\n".join(lines) + "\n"


def _memory(step: Step) -> str:
    reads = " ".join(access.buffer for access in step.reads)
    writes = " ".join(access.buffer for access in step.writes)
    return (f"    reads {reads}" if reads else "") + (f"    writes {writes}" if writes else "")


def _plan(planned: Planned) -> str:
    """One line a buffer of the arena, in the order in which they come to life."""
    placements = sorted(planned.plan.placements.items(), key=lambda item: item[1].first)
    lines = [f"{planned.function.name}: arena {planned.plan.arena_bytes} bytes"]
    lines += [
        f"  {name:8} bytes {p.offset:9} to {p.offset + p.nbytes:9}   steps {p.first} to {p.last}"
        for name, p in placements
    ]
    return "\n".join(lines) + "\n"
