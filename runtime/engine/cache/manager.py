"""The cache of all groups, and slots of state: what a sequence holds, and what others find of it.

`admit` gives a sequence the blocks of a beginning that is cached already; `grow` adds blocks as it
comes to need them, and gives back those that a sliding window has left behind; `grow_spare` and
`trim` do the same for what may turn out not to be needed; `record` tells the prefix index what has
been computed; `release` takes everything back. A block that begins with the right tokens but goes
on differently is copied, so no sequence ever writes where another reads.

Where programs keep state, a sequence has a slot besides, and goes on only from *snapshots*: copies
that `snapshot` makes of its slot at some positions, and the slot itself once it is released.
"""

from collections.abc import Sequence

from ....artifact.manifest import CacheGroup
from .block_pool import FREED, BlockPool
from .block_tables import BlockTables
from .hold import NO_COPIES, CacheHold, Copies
from .prefix_tree import NO_BLOCK, Match, PrefixIndex, PrefixNode
from .snapshot_places import SnapshotPlaces
from .state_pool import StatePool


class CacheManager:
    """The pools of all cache groups, and of slots if the program keeps state.

    `pool_sizes`: blocks of each group; `max_query`: most tokens that one step brings for a
    sequence; `prefixes`: whether beginnings are shared; `block_size`: of the tree, where there are
    no groups; `slots`: of state; `places`: where snapshots are taken.
    """

    def __init__(
        self,
        groups: tuple[CacheGroup, ...],
        pool_sizes: tuple[int, ...],
        max_query: int,
        *,
        prefixes: bool = True,
        block_size: int = 1,
        slots: int = 0,
        places: SnapshotPlaces | None = None,
    ) -> None:
        self.groups = groups
        self.prefixes = prefixes and bool(groups or slots)
        self.block_size = size = groups[0].block_size if groups else block_size
        self.state: StatePool | None = None
        if slots:
            self.state = StatePool(slots, lambda snapshot: self.index.remove(snapshot))
        drop = self.state.drop if self.state is not None else None
        self.index = PrefixIndex(groups, size, drop)
        self.pools = tuple(
            BlockPool(size, lambda node, group=group: self.index.forget(node, group))
            for group, size in enumerate(pool_sizes)
        )
        self._blocks = BlockTables(groups, self.pools, size, max_query)
        self.places = places or SnapshotPlaces()
        self._interval = -(-self.places.interval // size) * size
        self.copying = False
        """Whether there are copies to make."""
        self.grow, self.grow_spare = self._blocks.grow, self._blocks.grow_spare
        self.trim = self._blocks.trim

    def can_ever_admit(self, length: int) -> bool:
        """Whether a sequence of `length` tokens fits when nothing else is there."""
        needed = self._blocks.needed(length)
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

        None unless there is a slot for its state, all of `tokens` fit, and `reserve` blocks of each
        group are left over. At least one token is left to compute, since its logits are wanted.
        `reuse`: look for cached ones.
        """
        if self.state is not None and not self.state.available:
            return None
        match = Match([])
        if self.prefixes and reuse:
            find = self.index.match if self.state is None else self.index.match_snapshot
            match = find(namespace, tokens, len(tokens) - 1)
        tables = [self._found(group, match) for group in range(len(self.groups))]
        promises = self._blocks.find_promises(tables, len(tokens), reserve)
        return None if promises is None else self._take(tables, promises, match, namespace)

    def _found(self, group: int, match: Match) -> list[int]:
        """The block table of a match; blocks that the next token doesn't see are left out."""
        window, length = self.groups[group].window, len(match.nodes) * self.block_size
        seen = length + match.extra - (window - 1) if window else 0
        first = max(0, seen) // self.block_size
        nodes = match.nodes[first:]
        return [FREED] * (len(match.nodes) - len(nodes)) + [node.blocks[group] for node in nodes]

    def _take(
        self, tables: list[list[int]], promises: list[int], match: Match, namespace: str
    ) -> tuple[CacheHold, int]:
        length = len(match.nodes) * self.block_size
        freed = [table.count(FREED) for table in tables]
        node = match.nodes[-1] if match.nodes else self.index.root(namespace)
        # The slot comes first: blocks may be taken from the very node that its snapshot is in.
        slot = self._slot(match)
        self.copying = self.copying or match.extra > 0 or match.snapshot is not None
        hold = CacheHold(tables, freed, promises, length, node, length, slot)
        self._blocks.take(hold)
        if match.last is not None:
            self._blocks.add_copy(hold, list(match.last.blocks))
        return hold, length + match.extra

    def _slot(self, match: Match) -> int:
        if self.state is None:
            return -1
        if match.snapshot is None:
            return self.state.allocate()
        return self.state.allocate_from(match.snapshot)

    def fork(self, hold: CacheHold, length: int, *, reserve: int = 0) -> CacheHold | None:
        """A hold for another sequence with the same first `length` tokens, which are all that is
        computed of this one. None unless there is room for it, and `reserve` blocks besides."""
        whole, rest = divmod(length, self.block_size)
        if self.state is not None and not self.state.available:
            return None
        if not self._blocks.has_spare(reserve + bool(rest)):
            return None
        tables = [table[:whole] for table in hold.tables]
        freed = [table.count(FREED) for table in tables]
        slot = self.state.allocate_copy(hold.slot) if self.state is not None else -1
        self.copying = True
        promises, capacity = [0] * len(tables), whole * self.block_size
        forked = CacheHold(tables, freed, promises, capacity, hold.node, hold.indexed, slot)
        self._blocks.take(forked)
        if rest:
            self._blocks.add_copy(forked, [table[whole] for table in hold.tables])
        return forked

    def record(self, hold: CacheHold | None, tokens: Sequence[int], computed: int) -> None:
        """Lets others find the blocks that have become full."""
        if self.prefixes and hold is not None:
            if self.groups:
                self._record_blocks(hold, tokens, computed)
            if self.state is not None and not computed % self._interval:
                self.snapshot(hold, tokens, computed)

    def _record_blocks(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        size = self.block_size
        while hold.indexed + size <= computed:
            start = hold.indexed
            hold.node = self._describe(hold, hold.node, start, tuple(tokens[start : start + size]))
            hold.indexed += size

    def record_end(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        """Lets others find also the block that isn't full, up to what is computed."""
        if self.prefixes and self.groups:
            self._record_blocks(hold, tokens, computed)
            if hold.indexed < computed:
                last = tuple(tokens[hold.indexed : computed])
                self._describe(hold, hold.node, hold.indexed, last)

    def _describe(
        self, hold: CacheHold, parent: PrefixNode, start: int, tokens: tuple[int, ...]
    ) -> PrefixNode:
        """The node of these tokens of the sequence, which stand at `start` and behind `parent`; its
        blocks, where it has none yet, are ours."""
        column = start // self.block_size
        node = self.index.add(parent, tokens)
        ours = [table[column] for table in hold.tables]
        if self.state is not None:
            whole = all(n != NO_BLOCK or b != FREED for n, b in zip(node.blocks, ours, strict=True))
            if whole:
                self.index.inherit(node)
        for group, (pool, block) in enumerate(zip(self.pools, ours, strict=True)):
            if node.blocks[group] == NO_BLOCK and block != FREED:
                node.blocks[group] = block
                pool.describe(block, node)
        return node

    def cuts(self, tokens: Sequence[int], computed: int) -> list[int]:
        """Where chunks of a sequence are to end, of which so many tokens are computed: `snapshot`
        is to be called there."""
        if self.state is None or not self.prefixes:
            return []
        return self.places.of(tokens, computed)

    def snapshot(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        """Keeps a copy of the state after `computed` tokens, where the sequence stands now, unless
        there is one already, or no slot for it. Those at every interval are the first to go."""
        if self.state is not None and self.state.available:
            self._keep(hold, tokens, computed, None)

    def _keep(
        self, hold: CacheHold, tokens: Sequence[int], computed: int, slot: int | None
    ) -> bool:
        """Makes `slot`, or else a copy of the sequence's, a snapshot; False if there is one."""
        assert self.state is not None
        start = (computed - 1) // self.block_size * self.block_size
        last = tuple(tokens[start:computed])
        parent, node = self._parent_at(hold, tokens, start), None
        if self.groups:
            node = self._describe(hold, parent, start, last)
            if NO_BLOCK in node.blocks:
                return False
        if parent.snapshots and last in parent.snapshots:
            return False
        first_to_go = slot is None and not computed % self._interval
        if slot is None:
            slot = self.state.allocate_copy(hold.slot)
            self.copying = True
        snapshot = self.index.place(parent, last, node, slot)
        self.state.keep(slot, snapshot, first_to_go=first_to_go)
        return True

    def _parent_at(self, hold: CacheHold, tokens: Sequence[int], start: int) -> PrefixNode:
        """The node of a sequence's first `start` tokens, which are whole blocks. At most one more
        is recorded."""
        size = self.block_size
        while hold.indexed < start:  # without groups nodes are only the way to snapshots
            block = tuple(tokens[hold.indexed : hold.indexed + size])
            hold.node = self.index.add(hold.node, block)
            hold.indexed += size
        if hold.indexed == start:
            return self.index.attached(hold.node)
        assert hold.node.parent is not None
        return self.index.attached(hold.node.parent)

    def release(self, hold: CacheHold, tokens: Sequence[int], computed: int) -> None:
        """Takes back everything; what was computed of `tokens` can be found until it is needed."""
        self.record_end(hold, tokens, computed)
        if self.state is not None:
            is_kept = self.prefixes and computed >= max(1, self.places.least)
            if not (is_kept and self._keep(hold, tokens, computed, hold.slot)):
                self.state.release(hold.slot)
            hold.slot = -1
        self._blocks.release(hold)

    def take_copies(self) -> Copies:
        """The copies to make before the next step."""
        if not self.copying:
            return NO_COPIES
        self.copying = False
        slots = self.state.copies if self.state is not None else []
        copies = Copies(tuple(self._blocks.copies), tuple(slots))
        self._blocks.copies.clear()
        slots.clear()
        return copies
