"""Blocks of all cache groups, as sequences come to need them and give them back.

In: the tables of what a sequence holds, and how far it is or will be computed. Out: the same
tables, longer or shorter. Who is admitted is *promised* the blocks of its prompt, so that nobody
else takes them before it has grown so far.
"""

from collections.abc import Sequence

from ....artifact.manifest import CacheGroup
from .block_pool import FREED, BlockPool, blocks_needed
from .hold import BlockCopy, CacheHold


class BlockTables:
    """The pools of all groups, of blocks of one size. `max_query`: most tokens that one step brings
    for a sequence. `copies`: to be made, in this order."""

    def __init__(
        self,
        groups: tuple[CacheGroup, ...],
        pools: tuple[BlockPool, ...],
        block_size: int,
        max_query: int,
    ) -> None:
        self.groups, self.pools, self.block_size = groups, pools, block_size
        self.promised = [0] * len(groups)
        self.copies: list[BlockCopy] = []
        self._max_query = max_query

    def needed(self, length: int) -> tuple[int, ...]:
        """Most blocks per group that a sequence holds at once while it grows to `length` tokens."""
        return tuple(blocks_needed(group, length, self._max_query) for group in self.groups)

    def find_promises(
        self, tables: Sequence[Sequence[int]], length: int, reserve: int
    ) -> list[int] | None:
        """How many blocks of each group a sequence of `length` tokens needs beside those that were
        found for it; None unless they and `reserve` more are there."""
        promises = []
        for group, count in enumerate(self.needed(length)):
            pool, found = self.pools[group], [b for b in tables[group] if b != FREED]
            promises.append(max(0, count - len(found)))
            back_in_use = sum(not pool.is_used(block) for block in found)
            left = pool.available - self.promised[group] - back_in_use
            if promises[group] + reserve > left:
                return None
        return promises

    def take(self, hold: CacheHold) -> None:
        """Makes a sequence one more user of the blocks in its tables, and keeps its promises."""
        for group, (table, pool) in enumerate(zip(hold.tables, self.pools, strict=True)):
            self.promised[group] += hold.promised[group]
            for block in table:
                if block != FREED:
                    pool.share(block)

    def add_copy(self, hold: CacheHold, sources: Sequence[int]) -> None:
        """One more column, of blocks that get copies of these, one in each group."""
        for source, pool in zip(sources, self.pools, strict=True):
            pool.touch(source)
        self._allocate(hold, hold.capacity // self.block_size + 1)
        for group, (source, table) in enumerate(zip(sources, hold.tables, strict=True)):
            self.copies.append((group, source, table[-1]))

    def has_spare(self, count: int) -> bool:
        """Whether each group has so many blocks that nobody uses and nobody was promised."""
        return all(
            pool.available - promised >= count
            for pool, promised in zip(self.pools, self.promised, strict=True)
        )

    def _allocate(self, hold: CacheHold, columns: int) -> None:
        for group, (pool, table) in enumerate(zip(self.pools, hold.tables, strict=True)):
            while len(table) < columns:
                table.append(pool.allocate())
                if hold.promised[group]:
                    hold.promised[group] -= 1
                    self.promised[group] -= 1
        hold.capacity = columns * self.block_size

    def grow(self, hold: CacheHold, computed: int, length: int) -> bool:
        """Makes room for positions `computed` .. `length` - 1, which the next step writes.

        Blocks that no query from `computed` on can see are given back first. False, and nothing
        allocated, if a group has too few blocks.
        """
        columns = -(-length // self.block_size)
        for index, (group, pool) in enumerate(zip(self.groups, self.pools, strict=True)):
            if group.window:
                self._leave_window(hold, index, computed)
            if columns - len(hold.tables[index]) > pool.available:
                return False
        self._allocate(hold, columns)
        return True

    def _leave_window(self, hold: CacheHold, group: int, computed: int) -> None:
        table, pool = hold.tables[group], self.pools[group]
        outside = max(0, computed - (self.groups[group].window - 1)) // self.block_size
        while hold.freed[group] < min(outside, len(table)):
            pool.release(table[hold.freed[group]])
            table[hold.freed[group]] = FREED
            hold.freed[group] += 1

    def grow_spare(self, hold: CacheHold, length: int) -> int:
        """Makes room for positions up to `length` - 1 as far as there are blocks that nobody uses
        and no prompt was promised. Returns for how many positions there is room now, at most
        `length`."""
        columns, wanted = hold.capacity // self.block_size, -(-length // self.block_size)
        if wanted > columns:
            left = (
                pool.available - promised
                for pool, promised in zip(self.pools, self.promised, strict=True)
            )
            self._allocate(hold, columns + min(wanted - columns, max(0, min(left, default=wanted))))
        return min(length, hold.capacity)

    def trim(self, hold: CacheHold, length: int) -> None:
        """Gives back the blocks behind the first `length` positions, in which nothing is."""
        columns = -(-length // self.block_size)
        for pool, table in zip(self.pools, hold.tables, strict=True):
            while len(table) > columns:
                pool.release(table.pop())
        hold.capacity = columns * self.block_size

    def release(self, hold: CacheHold) -> None:
        """Takes back everything. The end of a text is given back first, so that it is also the
        first to be reused."""
        for pool, table, freed in zip(self.pools, hold.tables, hold.freed, strict=True):
            for block in reversed(table[freed:]):
                pool.release(block)
        for group, promised in enumerate(hold.promised):
            self.promised[group] -= promised
        hold.tables, hold.promised, hold.capacity = [], [], 0
