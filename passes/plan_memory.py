"""Give every buffer of a schedule a place in one arena.

Schedule → `MemoryPlan`. A buffer is alive from the first step that touches it to the last.
Results take the place of operands that die where the step allows it; the others are placed
greedily, best fit, in several orders, of which the tightest plan wins (storage allocation
with known lifetimes is NP-hard; a short seeded search closes what gap is left). Runs last:
whatever changes the schedule afterwards makes the plan wrong. `passes/verify_plan.py`
checks the result with other means.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ir.plan import ALIGNMENT, MemoryPlan, Placement, Schedule

_SEARCH_ROUNDS = 2000
_SEARCH_WORK = 5_000_000  # comparisons; keeps the search of long unrolled schedules short


@dataclass(slots=True)
class _Block:
    """Buffers that share one place, one after another."""

    names: list[str]
    nbytes: int
    first: int
    last: int


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """The plan of all buffers that aren't external."""
    blocks = _share_in_place(schedule, _lifetimes(schedule))
    bound = largest_live_set(blocks, len(schedule.steps))
    offsets = _search(blocks, bound)
    placements = {
        name: Placement(offset, block.nbytes, block.first, block.last)
        for block, offset in zip(blocks, offsets, strict=True)
        for name in block.names
    }
    return MemoryPlan(placements, _height(blocks, offsets), bound)


def largest_live_set(blocks: Iterable[_Block], steps: int) -> int:
    """The largest number of bytes alive in one step."""
    change = [0] * (steps + 1)
    for block in blocks:
        change[block.first] += block.nbytes
        change[block.last + 1] -= block.nbytes
    largest = alive = 0
    for delta in change:
        alive += delta
        largest = max(largest, alive)
    return largest


def _lifetimes(schedule: Schedule) -> dict[str, _Block]:
    blocks: dict[str, _Block] = {}
    for index, step in enumerate(schedule.steps):
        for access in step.touched:
            buffer = schedule.buffers[access.buffer]
            if buffer.external:
                continue
            nbytes = -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT
            block = blocks.setdefault(buffer.name, _Block([buffer.name], nbytes, index, index))
            block.last = index
    return blocks


def _share_in_place(schedule: Schedule, blocks: dict[str, _Block]) -> list[_Block]:
    """Join each result with an operand that dies in the step that makes it."""
    for index, step in enumerate(schedule.steps):
        taken: set[str] = set()
        for result, operand in step.in_place:
            new, old = blocks.get(result), blocks.get(operand)
            if new is None or old is None or new is old or {result, operand} & taken:
                continue
            if new.first != index or old.last != index:
                continue
            taken |= {result, operand}
            old.names += new.names
            old.nbytes = max(old.nbytes, new.nbytes)
            old.last = new.last
            blocks.update((name, old) for name in new.names)
    return list({id(block): block for block in blocks.values()}.values())


def _search(blocks: list[_Block], bound: int) -> list[int]:
    """Offsets of the tightest plan found, in the order of `blocks`."""
    indices = range(len(blocks))
    orders = [
        sorted(indices, key=lambda i: (-blocks[i].nbytes, blocks[i].first)),
        sorted(indices, key=lambda i: (blocks[i].first, -blocks[i].nbytes)),
        sorted(indices, key=lambda i: (blocks[i].first - blocks[i].last, -blocks[i].nbytes)),
        sorted(indices, key=lambda i: (blocks[i].first - blocks[i].last) * blocks[i].nbytes),
    ]
    best_order, best = orders[0], _place(blocks, orders[0])
    for order in orders[1:]:
        best_order, best = _better(blocks, (best_order, best), order)
    rounds = min(_SEARCH_ROUNDS, _SEARCH_WORK // (len(blocks) ** 2 + 1))
    generator = random.Random(0)
    for _ in range(rounds):
        if _height(blocks, best) <= bound:
            break
        order = list(best_order)
        moved = order.pop(generator.randrange(len(order)))
        order.insert(generator.randrange(len(order) + 1), moved)
        best_order, best = _better(blocks, (best_order, best), order)
    return best


def _better(
    blocks: list[_Block], best: tuple[list[int], list[int]], order: list[int]
) -> tuple[list[int], list[int]]:
    offsets = _place(blocks, order)
    # An equally good order is taken, too: the search wanders over plateaus.
    return (order, offsets) if _height(blocks, offsets) <= _height(blocks, best[1]) else best


def _place(blocks: list[_Block], order: Sequence[int]) -> list[int]:
    """Best fit in the given order: the smallest gap between those alive at the same time."""
    offsets = [0] * len(blocks)
    placed: list[int] = []  # by offset
    for index in order:
        block = blocks[index]
        best, best_gap, free_from = -1, 0, 0
        for other in placed:
            neighbour = blocks[other]
            if neighbour.last < block.first or block.last < neighbour.first:
                continue
            gap = offsets[other] - free_from
            if gap >= block.nbytes and (best < 0 or gap < best_gap):
                best, best_gap = free_from, gap
            free_from = max(free_from, offsets[other] + neighbour.nbytes)
        offsets[index] = best if best >= 0 else free_from
        at = next((i for i, o in enumerate(placed) if offsets[o] > offsets[index]), len(placed))
        placed.insert(at, index)
    return offsets


def _height(blocks: list[_Block], offsets: list[int]) -> int:
    return max((o + b.nbytes for b, o in zip(blocks, offsets, strict=True)), default=0)
