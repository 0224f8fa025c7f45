"""A program's schedule and memory plan as text, for who works on them (`LLMC_DUMP`).

main: 12 steps, 3 barriers, arena 81920 bytes
  3 | linear model.layers.0.mlp    reads b4 w7    writes b5
"""

from __future__ import annotations

import networkx as nx

from ...ir.plan import Step
from ...passes.dependences import critical_path, dependence_graph
from .bodies import Planned
from .program import Program


def listings(program: Program) -> dict[str, str]:
    """`schedule.txt`, `memory-plan.txt`, and each function's dependences as GraphML."""
    parts = [program.main, *(body.planned for body in program.bodies)]
    drawn = {
        f"dependences-{part.function.name}.graphml": "\n".join(
            nx.generate_graphml(dependence_graph(part.function.schedule, part.plan))
        )
        for part in parts
    }
    return drawn | {
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
    graph = dependence_graph(planned.function.schedule, planned.plan)
    chain = critical_path(graph)
    moved = [graph.nodes[number]["bytes"] for number in graph.nodes]
    share = sum(moved[number] for number in chain) / max(sum(moved), 1)
    lines.append(f"critical path: {len(chain)} steps, {share:.0%} of the bytes: {chain}")
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
