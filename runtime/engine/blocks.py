"""Blocks of the paged cache: who holds which, in every cache group.

`BlockPool` hands out block ids of one group. `BlockTable` is one sequence's blocks in one group:
it grows as tokens come, and gives back the blocks that a sliding window has left behind.
`CacheManager` does this for all groups, and admits a sequence only if all the blocks that it can
come to hold at once are still unpromised, so that a running sequence never waits for a block.
"""

import heapq
from dataclasses import dataclass, field

from ..artifact import CacheGroup

FREED = -1


class BlockPool:
    """Ids 0 .. size-1, each held by at most one owner. The lowest free id is given out first, so
    that a pool that is never full touches little memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = list(range(size))  # sorted, so already a heap
        self._is_free = [True] * size

    @property
    def free_count(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self) -> int:
        """A free block. Callers ask only for what they were promised: IndexError otherwise."""
        block = heapq.heappop(self._free)
        self._is_free[block] = False
        return block

    def release(self, block: int) -> None:
        """Takes a block back."""
        if self._is_free[block]:
            raise ValueError(f"block {block} was released twice")
        self._is_free[block] = True
        heapq.heappush(self._free, block)


@dataclass(slots=True)
class BlockTable:
    """Block of each block_size positions of one sequence; `FREED` where it left the window."""

    blocks: list[int] = field(default_factory=list)
    freed: int = 0
    """How many entries at the start are `FREED`."""


@dataclass(slots=True)
class CacheHold:
    """What one sequence holds: a table per group, and the number of blocks promised per group."""

    promised: tuple[int, ...]
    tables: tuple[BlockTable, ...]


class CacheManager:
    """The pools of all cache groups. `pool_sizes`: blocks of each; `max_query`: most tokens that
    one step brings for a sequence."""

    def __init__(
        self, groups: tuple[CacheGroup, ...], pool_sizes: tuple[int, ...], max_query: int
    ) -> None:
        self.groups = groups
        self.pools = tuple(BlockPool(size) for size in pool_sizes)
        self._unpromised = list(pool_sizes)
        self._max_query = max_query

    def blocks_needed(self, length: int) -> tuple[int, ...]:
        """Most blocks per group that a sequence holds at once while it grows to `length` tokens."""
        return tuple(blocks_needed(group, length, self._max_query) for group in self.groups)

    def can_ever_admit(self, length: int) -> bool:
        """Whether a sequence of `length` tokens fits when nothing else is there."""
        needed = self.blocks_needed(length)
        return all(n <= pool.size for n, pool in zip(needed, self.pools, strict=True))

    def can_admit(self, length: int) -> bool:
        """Whether `admit` would succeed now."""
        needed = self.blocks_needed(length)
        return all(n <= left for n, left in zip(needed, self._unpromised, strict=True))

    def admit(self, length: int) -> CacheHold:
        """Promises a sequence all the blocks it can need up to `length` tokens."""
        if not self.can_admit(length):
            raise ValueError("not enough blocks; ask can_admit first")
        needed = self.blocks_needed(length)
        self._unpromised = [u - n for u, n in zip(self._unpromised, needed, strict=True)]
        return CacheHold(needed, tuple(BlockTable() for _ in self.groups))

    def grow(self, hold: CacheHold, computed: int, length: int) -> None:
        """Makes room for positions `computed` .. `length` - 1, which the next step writes.

        Blocks that no query from `computed` on can see are given back first.
        """
        for group, pool, table in zip(self.groups, self.pools, hold.tables, strict=True):
            if group.window:
                out_of_window = max(0, computed - (group.window - 1)) // group.block_size
                while table.freed < min(out_of_window, len(table.blocks)):
                    pool.release(table.blocks[table.freed])
                    table.blocks[table.freed] = FREED
                    table.freed += 1
            while len(table.blocks) * group.block_size < length:
                table.blocks.append(pool.allocate())

    def release(self, hold: CacheHold) -> None:
        """Takes back everything a sequence holds or was promised."""
        for pool, table in zip(self.pools, hold.tables, strict=True):
            for block in table.blocks[table.freed :]:
                pool.release(block)
        self._unpromised = [u + n for u, n in zip(self._unpromised, hold.promised, strict=True)]
        hold.promised, hold.tables = tuple(0 for _ in self.groups), ()

    def tables(self, holds: list[CacheHold]) -> list[list[list[int]]]:
        """Per group the block tables of these sequences."""
        return [[hold.tables[g].blocks.copy() for hold in holds] for g in range(len(self.groups))]


def blocks_needed(group: CacheGroup, length: int, max_query: int) -> int:
    """Most blocks of `group` that a sequence of up to `length` tokens holds at once.

    With a window, a step of q tokens needs the window - 1 positions before them and their own:
    these span one block more than they fill when they don't start at a block's edge.
    """
    everything = -(-length // group.block_size)
    if not group.window:
        return everything
    span = group.window - 1 + min(max_query, length)
    return min(everything, -(-span // group.block_size) + 1)
