"""The paged cache of all groups: what a sequence holds, and what others can find of it.

`admit` gives a sequence the blocks of a beginning that is cached already; `grow` adds blocks as it
comes to need them, and gives back those that a sliding window has left behind; `grow_spare` and
`trim` do the same for what may turn out not to be needed; `record` tells the prefix index what has
been computed; `release` takes everything back. A block that begins with the right tokens but goes
on differently is copied, so no sequence ever writes where another reads.
"""

from collections.abc import Sequence

from msgspec import Struct

from ....artifact.manifest import CacheGroup
from .block_pool import FREED, BlockPool, blocks_needed
from .prefix_tree import NO_BLOCK, Match, PrefixIndex, PrefixNode

BlockCopy = tuple[int, int, int]
"""(cache group, source block, target block)."""


class CacheHold(Struct, eq=False):
    """What one sequence holds.

    `tables`: per group a block for each block_size positions, `FREED` where it left the window,
    and `freed` of them. `promised`: per group the blocks that its prompt has still to get.
    `capacity`: tokens that there is room for. `node`: the end of what the index knows of this
    sequence, which is its first `indexed` tokens.
    """

    tables: list[list[int]]
    freed: list[int]
    promised: list[int]
    capacity: int
    node: PrefixNode
    indexed: int


class CacheManager:
    """The pools of all cache groups. `pool_sizes`: blocks of each; `max_query`: most tokens that
    one step brings for a sequence; `prefixes`: whether beginnings are shared."""

    def __init__(
        self,
        groups: tuple[CacheGroup, ...],
        pool_sizes: tuple[int, ...],
        max_query: int,
        *,
        prefixes: bool = True,
    ) -> None:
        self.groups = groups
        self.prefixes = prefixes and bool(groups)
        self.block_size = groups[0].block_size if groups else 1
        self.index = PrefixIndex(groups, self.block_size)
        self.pools = tuple(
            BlockPool(size, lambda node, group=group: self.index.forget(node, group))
            for group, size in enumerate(pool_sizes)
        )
        self._max_query = max_query
        self._promised = [0] * len(groups)
        self._copies: list[BlockCopy] = []

    def blocks_needed(self, length: int) -> tuple[int, ...]:
        """Most blocks per group that a sequence holds at once while it grows to `length` tokens."""
        return tuple(blocks_needed(group, length, self._max_query) for group in self.groups)

    def can_ever_admit(self, length: int) -> bool:
        """Whether a sequence of `length` tokens fits when nothing else is there."""
        needed = self.blocks_needed(length)
        return all(n <= pool.size for n, pool in zip(needed, self.pools, strict=True))

    def admit(
        self,
        tokens: Sequence[int],
        *,
        namespace: str = "",
        reserve: int = 0,
        reuse: bool = True,
    ) -> tuple[CacheHold, int] | None:
        """A hold for a sequence, and how many of its first tokens are in it already.

        None unless all of `tokens` fit and `reserve` blocks of each group are left over. At least
        one token is left to compute, since its logits are wanted. `reuse`: look for cached ones.
        """
        match = Match([])
        if self.prefixes and reuse:
            match = self.index.match(namespace, tokens, len(tokens) - 1)
        tables = [self._found(group, match) for group in range(len(self.groups))]
        promised = []
        for group, count in enumerate(self.blocks_needed(len(tokens))):
            pool, found = self.pools[group], [b for b in tables[group] if b != FREED]
            promised.append(max(0, count - len(found)))
            back_in_use = sum(not pool.is_used(block) for block in found)
            left = pool.available - self._promised[group] - back_in_use
            if promised[group] + reserve > left:
                return None
        return self._take(tables, promised, match, namespace)

    def _found(self, group: int, match: Match) -> list[int]:
        """The block table of a match; blocks that the next token doesn't see are left out."""
        window, length = self.groups[group].window, len(match.nodes) * self.block_size
        first = max(0, length - (window - 1)) // self.block_size if window else 0
        return [FREED] * first + [node.blocks[group] for node in match.nodes[first:]]

    def _take(
        self, tables: list[list[int]], promised: list[int], match: Match, namespace: str
    ) -> tuple[CacheHold, int]:
        length = len(match.nodes) * self.block_size
        for group, (table, pool) in enumerate(zip(tables, self.pools, strict=True)):
            self._promised[group] += promised[group]
            for block in table:
                if block != FREED:
                    pool.share(block)
        freed = [table.count(FREED) for table in tables]
        node = match.nodes[-1] if match.nodes else self.index.root(namespace)
        hold = CacheHold(tables, freed, promised, length, node, length)
        if match.last is not None:
            sources = list(match.last.blocks)
            for source, pool in zip(sources, self.pools, strict=True):
                pool.touch(source)
            self._allocate(hold, len(match.nodes) + 1)
            self._copies += [(g, source, tables[g][-1]) for g, source in enumerate(sources)]
        return hold, length + match.extra

    def _allocate(self, hold: CacheHold, columns: int) -> None:
        for group, (pool, table) in enumerate(zip(self.pools, hold.tables, strict=True)):
            while len(table) < columns:
                table.append(pool.allocate())
                if hold.promised[group]:
                    hold.promised[group] -= 1
                    self._promised[group] -= 1
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
                for pool, promised in zip(self.pools, self._promised, strict=True)
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

    def record(self, hold: CacheHold | None, tokens: Sequence[int], computed: int) -> None:
        """Lets others find the blocks that have become full."""
        size = self.block_size
        while self.prefixes and hold is not None and hold.indexed + size <= computed:
            start = hold.indexed
            hold.node = self._describe(hold, tuple(tokens[start : start + size]))
            hold.indexed += size

    def record_end(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        """Lets others find also the block that isn't full, up to what is computed."""
        if self.prefixes:
            self.record(hold, tokens, computed)
            if hold.indexed < computed:
                self._describe(hold, tuple(tokens[hold.indexed : computed]))

    def _describe(self, hold: CacheHold, tokens: tuple[int, ...]) -> PrefixNode:
        """The node of these tokens of the sequence; its blocks, where it has none yet, are ours."""
        column = hold.indexed // self.block_size
        node = self.index.add(hold.node, tokens)
        for group, (pool, table) in enumerate(zip(self.pools, hold.tables, strict=True)):
            if node.blocks[group] == NO_BLOCK and table[column] != FREED:
                node.blocks[group] = table[column]
                pool.describe(table[column], node)
        return node

    def release(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        """Takes back everything; what was computed of `tokens` can be found until it is needed.

        The end of a text is given back first, so that it is also the first to be reused.
        """
        self.record_end(hold, tokens, computed)
        for pool, table, freed in zip(self.pools, hold.tables, hold.freed, strict=True):
            for block in reversed(table[freed:]):
                pool.release(block)
        for group, promised in enumerate(hold.promised):
            self._promised[group] -= promised
        hold.tables, hold.promised, hold.capacity = [], [], 0

    def take_copies(self) -> tuple[BlockCopy, ...]:
        """The copies to make, in this order, before the next step."""
        copies, self._copies = tuple(self._copies), []
        return copies
