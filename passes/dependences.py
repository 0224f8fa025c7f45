"""A schedule as a graph of dependences: what must wait for what, and what may overlap.

In: a function's `Schedule` and, if there is one, its `MemoryPlan` (buffers in the same place depend
on one another). Out: a `networkx.DiGraph` of step numbers, with each step's name and bytes. For
reading (`LLMC_DUMP`) and for backends that run steps at the same time.
"""

from __future__ import annotations

import networkx as nx

from ..ir.plan import Access, MemoryPlan, Schedule


def dependence_graph(schedule: Schedule, plan: MemoryPlan | None = None) -> nx.DiGraph:
    """An edge from each step to those that must come after it, the transitive ones left out.

    Two steps depend on one another if both touch the same memory and one of them writes it. Nodes:
    `name`, and `bytes`, the sizes of the buffers that the step reads and writes.
    """
    graph = nx.DiGraph(name=schedule.name)
    for number, step in enumerate(schedule.steps):
        nbytes = sum(schedule.buffers[a.buffer].nbytes for a in step.touched)
        graph.add_node(number, name=step.name, bytes=nbytes)
    for later, step in enumerate(schedule.steps):
        for earlier in range(later):
            before = schedule.steps[earlier]
            if _conflict(before.writes, step.touched, plan) or _conflict(
                before.reads, step.writes, plan
            ):
                graph.add_edge(earlier, later)
    reduced = nx.transitive_reduction(graph)
    reduced.add_nodes_from(graph.nodes(data=True))
    reduced.graph.update(graph.graph)
    return reduced


def critical_path(graph: nx.DiGraph) -> list[int]:
    """The chain of steps, each waiting for the one before, that moves the most bytes."""
    weighted = nx.DiGraph()
    for number, data in graph.nodes(data=True):
        weighted.add_edge(("in", number), ("out", number), weight=data["bytes"] + 1)
    weighted.add_edges_from((("out", a), ("in", b), {"weight": 0}) for a, b in graph.edges)
    path = nx.dag_longest_path(weighted)
    return [number for side, number in path if side == "in"]


def may_overlap(graph: nx.DiGraph, first: int, second: int) -> bool:
    """Whether two steps may run at the same time: neither waits for the other."""
    return not nx.has_path(graph, first, second) and not nx.has_path(graph, second, first)


def _conflict(
    ones: tuple[Access, ...], others: tuple[Access, ...], plan: MemoryPlan | None
) -> bool:
    return any(_same_memory(a.buffer, b.buffer, plan) for a in ones for b in others)


def _same_memory(one: str, other: str, plan: MemoryPlan | None) -> bool:
    """Equal buffers, or such as have bytes of the arena in common."""
    if one == other:
        return True
    a, b = (plan.placements.get(name) if plan else None for name in (one, other))
    return a is not None and b is not None and a.offset < b.end and b.offset < a.end
