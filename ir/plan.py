"""What a compiled function does to memory, and the plan made from that.

A backend describes each function (the main graph, every body) as a `Schedule`: steps
in order, each with the buffers it reads and writes. `passes/plan_memory.py` makes
a `MemoryPlan` of it and `passes/place_barriers.py` says where threads must wait for one
another. Nothing here knows an op or a machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 64
"""Bytes: every buffer starts on a cache line, so no two buffers share one."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one stored value. `nbytes` is its size at the program's limits.

    An external buffer is memory that the caller brings (inputs, outputs, cache pools,
    weights): it has no place in the arena.
    """

    name: str
    nbytes: int
    external: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """A step reads or writes `buffer`.

    `lane` says how the buffer is shared out among threads, down to the byte: two accesses
    with the same lane to memory that starts at the same place touch each byte in the same
    thread, so they need no barrier between them. The empty lane promises nothing.
    """

    buffer: str
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call. `in_place` pairs (written, read) may be the same memory.

    A buffer that only this step touches is its scratch memory. What a step writes to the buffers
    that it `delivers` every thread may read without a barrier: the kernel waits itself, or each
    thread has a copy of its own.
    """

    name: str
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    in_place: tuple[tuple[str, str], ...] = ()
    delivers: frozenset[str] = frozenset()

    @property
    def touched(self) -> tuple[Access, ...]:
        return self.reads + self.writes


@dataclass(slots=True)
class Schedule:
    """The steps of one function. `aliases` are pairs of externals that may be one."""

    name: str
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    aliases: set[frozenset[str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Placement:
    """Bytes [offset, offset + nbytes) of the arena, held from step `first` to step `last`."""

    offset: int
    nbytes: int
    first: int
    last: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where each buffer lies, the arena's size, and the lower bound it is measured against.

    `largest_live` is the sum of the sizes (rounded up to the alignment) of the buffers
    that are alive in the step where that sum is largest: no plan can be smaller.
    """

    placements: dict[str, Placement]
    arena_bytes: int
    largest_live: int
