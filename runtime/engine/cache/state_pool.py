"""Slots for the state of sequences: free, in use, or kept as snapshots.

A sequence has one slot from its admission to its end, since each has its own state. Slots that no
sequence uses keep *snapshots* (`prefix_tree.py` knows of which text), and are given out when no
free one is left: the least recently used first.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from .hold import SlotCopy
from .prefix_tree import Snapshot


class SnapshotCounts(Struct):
    """How many snapshots were taken, how many times one was gone on from, and how many were given
    up for their slots."""

    taken: int = 0
    used: int = 0
    evicted: int = 0


class StatePool:
    """Slots 0 .. size-1, the lowest free one first. `forget(snapshot)` is told when the slot of a
    snapshot gets another content. `copies`: to be made, in this order."""

    def __init__(self, size: int, forget: Callable[[Snapshot], None]) -> None:
        self.size = size
        self.counts = SnapshotCounts()
        self.copies: list[SlotCopy] = []
        self._forget = forget
        self._free = list(range(size))  # sorted, so already a heap
        self._kept: OrderedDict[int, Snapshot] = OrderedDict()
        self._used: set[int] = set()

    @property
    def available(self) -> int:
        """Slots that no sequence uses."""
        return self.size - len(self._used)

    @property
    def used(self) -> int:
        """Slots of sequences."""
        return len(self._used)

    @property
    def kept(self) -> int:
        """Slots of snapshots."""
        return len(self._kept)

    def allocate(self) -> int:
        """A slot for one sequence. Callers look at `available` first: KeyError otherwise."""
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, snapshot = self._kept.popitem(last=False)
            self.counts.evicted += 1
            self._forget(snapshot)
        self._used.add(slot)
        return slot

    def allocate_from(self, snapshot: Snapshot) -> int:
        """A slot with the content of a snapshot: a copy, or the snapshot's own if there is no
        other slot. (Nobody else goes on from it then.)"""
        self.counts.used += 1
        self._kept.move_to_end(snapshot.slot)
        slot = self.allocate()
        if slot != snapshot.slot:
            self.copies.append((snapshot.slot, slot))
        return slot

    def allocate_copy(self, source: int) -> int:
        """A slot with the content of one that a sequence uses."""
        slot = self.allocate()
        self.copies.append((source, slot))
        return slot

    def release(self, slot: int) -> None:
        """A sequence gives its slot back. KeyError if none had it."""
        self._used.remove(slot)
        heapq.heappush(self._free, slot)

    def keep(self, slot: int, snapshot: Snapshot, *, first_to_go: bool = False) -> None:
        """A slot that was given out is a snapshot from now on. `first_to_go`: the next one to be
        given up, unless it is used before."""
        self._used.remove(slot)
        self._kept[slot] = snapshot
        if first_to_go:
            self._kept.move_to_end(slot, last=False)
        self.counts.taken += 1

    def drop(self, snapshot: Snapshot) -> None:
        """A snapshot is good for nothing any more."""
        del self._kept[snapshot.slot]
        heapq.heappush(self._free, snapshot.slot)
