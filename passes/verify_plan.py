"""Check a memory plan and its barriers by replaying the schedule.

Written without the planner's notion of a lifetime: the steps are replayed on an arena
that remembers which buffer's content each byte range holds. A step that reads a buffer
finds its content overwritten, or writes over an operand it may not write over → refused.
Then every two steps between which no barrier stands are compared byte range by byte range.
"""

from __future__ import annotations

from collections.abc import Collection

from ..base.errors import LlmcError
from ..ir.plan import Access, MemoryPlan, Schedule, Step


def verify_plan(schedule: Schedule, plan: MemoryPlan, barriers: Collection[int]) -> None:
    """Check contents, bounds and barriers.

    Raises:
        LlmcError: LLMC-E0103, naming the two buffers and the step.
    """
    _verify_bounds(schedule, plan)
    _replay(schedule, plan)
    _verify_barriers(schedule, plan, set(barriers))


def _fail(schedule: Schedule, index: int, problem: str) -> LlmcError:
    step = schedule.steps[index].name
    return LlmcError("LLMC-E0103", f"{schedule.name}, step {index} ({step}): {problem}")


def _verify_bounds(schedule: Schedule, plan: MemoryPlan) -> None:
    for index, step in enumerate(schedule.steps):
        for access in step.touched:
            buffer = schedule.buffers[access.buffer]
            if buffer.external:
                continue
            place = plan.placements.get(buffer.name)
            if place is None:
                raise _fail(schedule, index, f"{buffer.name} has no place")
            fits = place.offset >= 0 and place.offset + buffer.nbytes <= plan.arena_bytes
            if not fits or buffer.nbytes > place.nbytes:
                raise _fail(schedule, index, f"{buffer.name} lies outside the arena")


def _replay(schedule: Schedule, plan: MemoryPlan) -> None:
    intact: set[str] = set()  # buffers whose content is in the arena
    for index, step in enumerate(schedule.steps):
        read = [a.buffer for a in step.reads if not schedule.buffers[a.buffer].external]
        written = [a.buffer for a in step.writes if not schedule.buffers[a.buffer].external]
        for name in read:
            if name not in intact:
                raise _fail(schedule, index, f"{name} is read after it was overwritten")
        for position, name in enumerate(written):
            others = [*read, *written[position + 1 :]]
            for other in others:
                allowed = name == other or (name, other) in step.in_place
                if not allowed and _overlap(schedule, plan, name, other):
                    raise _fail(schedule, index, f"{name} is written over {other}")
        for name in written:
            intact = {n for n in intact if not _overlap(schedule, plan, name, n)}
        intact.update(written)


def _verify_barriers(schedule: Schedule, plan: MemoryPlan, barriers: set[int]) -> None:
    first = 0  # of the steps since the last barrier
    for index, step in enumerate(schedule.steps):
        first = index if index in barriers else first
        for earlier in range(first, index):
            problem = _race(schedule, plan, schedule.steps[earlier], step)
            if problem:
                raise _fail(schedule, index, f"no barrier after step {earlier}: {problem}")


def _race(schedule: Schedule, plan: MemoryPlan, before: Step, after: Step) -> str:
    pairs = [(a, b) for a in before.writes for b in after.reads if not _delivered(before, a, b)]
    pairs += [(a, b) for a in before.writes for b in after.writes]
    pairs += [(a, b) for a in before.reads for b in after.writes]
    for a, b in pairs:
        if _same_thread(schedule, plan, a, b):
            continue
        if _overlap(schedule, plan, a.buffer, b.buffer):
            return f"{a.buffer} and {b.buffer}"
    return ""


def _delivered(before: Step, written: Access, read: Access) -> bool:
    return written.buffer == read.buffer and written.buffer in before.delivers


def _same_thread(schedule: Schedule, plan: MemoryPlan, a: Access, b: Access) -> bool:
    if not a.lane or a.lane != b.lane:
        return False
    if a.buffer == b.buffer or frozenset((a.buffer, b.buffer)) in schedule.aliases:
        return True
    x, y = plan.placements.get(a.buffer), plan.placements.get(b.buffer)
    return x is not None and y is not None and x.offset == y.offset


def _overlap(schedule: Schedule, plan: MemoryPlan, a: str, b: str) -> bool:
    if a == b:
        return True
    if schedule.buffers[a].external or schedule.buffers[b].external:
        return frozenset((a, b)) in schedule.aliases
    x, y = plan.placements[a].offset, plan.placements[b].offset
    return x < y + schedule.buffers[b].nbytes and y < x + schedule.buffers[a].nbytes
