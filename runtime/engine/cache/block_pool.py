"""Blocks of the paged cache of one group: free, in use, or kept for who may ask for them again.

A block in use is counted: several sequences may read one. When nobody uses it any more it is free,
unless the prefix index knows what is in it: then it is *kept*, and given out only when no free
block is left, the least recently used first.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable

from ....artifact.manifest import CacheGroup
from .prefix_tree import PrefixNode

FREED = -1
"""In a block table: this block has left the window."""


class BlockPool:
    """Ids 0 .. size-1. The lowest free id is given out first, so that a pool that is never full
    touches little memory. `forget(node)` is told when a kept block gets another content."""

    def __init__(self, size: int, forget: Callable[[PrefixNode], None]) -> None:
        self.size = size
        self._forget = forget
        self._free = list(range(size))  # sorted, so already a heap
        self._kept: OrderedDict[int, PrefixNode] = OrderedDict()
        self._users = [0] * size
        self._nodes: list[PrefixNode | None] = [None] * size

    @property
    def available(self) -> int:
        """Blocks that nobody uses: free or kept."""
        return len(self._free) + len(self._kept)

    @property
    def used(self) -> int:
        """Blocks that some sequence uses."""
        return self.size - self.available

    @property
    def kept(self) -> int:
        """Blocks that nobody uses and whose content may be asked for again."""
        return len(self._kept)

    def is_used(self, block: int) -> bool:
        """Whether some sequence uses it."""
        return self._users[block] > 0

    def allocate(self) -> int:
        """A block for one user. Callers look at `available` first: KeyError otherwise."""
        if self._free:
            block = heapq.heappop(self._free)
        else:
            block, node = self._kept.popitem(last=False)
            self._nodes[block] = None
            self._forget(node)
        self._users[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more user of a block that the index knows."""
        if not self._users[block]:
            del self._kept[block]
        self._users[block] += 1

    def touch(self, block: int) -> None:
        """Counts as a use of a kept block."""
        if block in self._kept:
            self._kept.move_to_end(block)

    def release(self, block: int) -> None:
        """One user less."""
        if not self._users[block]:
            raise ValueError(f"block {block} was released twice")
        self._users[block] -= 1
        if not self._users[block]:
            node = self._nodes[block]
            if node is None:
                heapq.heappush(self._free, block)
            else:
                self._kept[block] = node

    def describe(self, block: int, node: PrefixNode) -> None:
        """Notes that the index knows what is in a block that is in use; it forgets what it knew."""
        old, self._nodes[block] = self._nodes[block], node
        if old is not None and old is not node:
            self._forget(old)


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
