"""What one sequence holds of the cache, and copies that make room for it."""

from typing import NamedTuple

from msgspec import Struct

from .prefix_tree import PrefixNode

BlockCopy = tuple[int, int, int]
"""(cache group, source block, target block)."""
SlotCopy = tuple[int, int]
"""(source, target) among the slots of state."""


class Copies(NamedTuple):
    """To be made before the next step, each kind in its order."""

    blocks: tuple[BlockCopy, ...] = ()
    slots: tuple[SlotCopy, ...] = ()


NO_COPIES = Copies()


class CacheHold(Struct, eq=False):
    """What one sequence holds.

    `tables`: per group a block for each block_size positions, `FREED` where it left the window,
    and `freed` of them. `promised`: per group the blocks that its prompt has still to get.
    `capacity`: tokens that there is room for. `node`: the end of what the index knows of this
    sequence, which is its first `indexed` tokens. `slot`: where its state lies, if it has any.
    """

    tables: list[list[int]]
    freed: list[int]
    promised: list[int]
    capacity: int
    node: PrefixNode
    indexed: int
    slot: int = -1
