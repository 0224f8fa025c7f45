"""Decide before which steps all threads wait for one another.

Schedule and memory plan → step indices. Threads run the whole schedule side by side,
each its share of every step. A barrier stands before a step that touches memory which
another thread may have written since the last barrier, or that overwrites memory which
another thread may still be reading, be it the same buffer or another one in its place.
One forward scan, each barrier as late as possible, gives the fewest.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.plan import Access, MemoryPlan, Schedule, Step


@dataclass(frozen=True, slots=True)
class _Use:
    """One access since the last barrier; externals have no range (0, 0)."""

    access: Access
    writes: bool
    start: int
    end: int
    delivered: bool = False


def place_barriers(schedule: Schedule, plan: MemoryPlan) -> frozenset[int]:
    """Indices of the steps that a barrier precedes."""
    barriers: set[int] = set()
    pending: list[_Use] = []
    for index, step in enumerate(schedule.steps):
        uses = _uses(schedule, plan, step)
        if any(_conflict(schedule, a, b) for a in pending for b in uses):
            barriers.add(index)
            pending = []
        pending += uses
    return frozenset(barriers)


def _uses(schedule: Schedule, plan: MemoryPlan, step: Step) -> list[_Use]:
    uses: list[_Use] = []
    for accesses, writes in ((step.reads, False), (step.writes, True)):
        for access in accesses:
            start = end = 0
            buffer = schedule.buffers[access.buffer]
            if not buffer.external:
                start = plan.placements[buffer.name].offset
                end = start + buffer.nbytes
            delivered = writes and buffer.name in step.delivers
            uses.append(_Use(access, writes, start, end, delivered))
    return uses


def _conflict(schedule: Schedule, a: _Use, b: _Use) -> bool:
    if not (a.writes or b.writes):
        return False
    if a.delivered and not b.writes and a.access.buffer == b.access.buffer:
        return False
    one = a.access.buffer == b.access.buffer
    one = one or frozenset((a.access.buffer, b.access.buffer)) in schedule.aliases
    same_start = one or (a.start == b.start and min(a.end, b.end) > 0)
    if same_start and a.access.lane == b.access.lane != "":
        return False
    return one or (a.start < b.end and b.start < a.end)
