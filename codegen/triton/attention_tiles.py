"""Tiles, segments and scratch of an attention layer, and the classes that work is counted for.

In: a `PagedAttention` node, the limits of the program. Out: what `kernels/paged_attention.py` and
`kernels/step_metadata.py` must agree on. A layer has the same ROWS, KEYS and segments in every
form, so that a token's result doesn't depend on what else is in its step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...artifact.manifest import Limits
from ...ir.graph import Graph, Node
from ...ir.ops import PagedAttention
from ...ir.ops.cache_codes import padded
from ...ir.types import DType
from .machines import Machine

SEGMENT = 128
"""Keys of the first segments: one sequence of 1024 tokens and 8 heads has 64 items."""
PER_LEVEL = 16
"""As in `kernels/attention_work.py`."""
MOST_LEVELS = 6
SHORT = 8
"""Query tokens up to which a sequence's keys are divided among programs."""
SCRATCH_BYTES = 1 << 28
"""Partial results take no more than this, if need be by a smaller SHORT."""


@dataclass(frozen=True)
class WorkClass:
    """Layers of one class have the same items in every step."""

    window: int
    tile: int
    short: int
    segment: int
    levels: int

    @property
    def constants(self) -> tuple[int, ...]:
        """In the order that `step_metadata` takes them in."""
        return self.window, self.tile, self.short, self.segment, self.levels


@dataclass(frozen=True)
class AttentionTiles:
    """Constants of one layer's kernels. `segments`: the most that a short sequence sees."""

    group: int
    kv_heads: int
    key: int
    value: int
    cache: DType
    rows: int
    segments: int
    work: WorkClass

    @property
    def key_block(self) -> int:
        return power_of_two(padded(self.key))

    @property
    def value_block(self) -> int:
        return power_of_two(padded(self.value))

    @property
    def short_tiles(self) -> int:
        """Query tiles of the longest short sequence."""
        return -(-self.work.short // self.work.tile)


def power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()


def tiles_of(node: Node, limits: Limits) -> AttentionTiles:
    """The tiles of a `PagedAttention` node."""
    op = node.op
    assert isinstance(op, PagedAttention)
    q, key_pool = node.inputs[0].type, node.inputs[1].type
    heads, key, kv_heads, value = (
        q.shape[-2],
        q.shape[-1],
        key_pool.shape[2],
        node.output.type.shape[-1],
    )
    assert isinstance(heads, int)
    assert isinstance(key, int)
    assert isinstance(kv_heads, int)
    assert isinstance(value, int)
    group = heads // kv_heads
    narrow = key_pool.dtype is not DType.F32
    rows = max(64 if narrow else 16, power_of_two(group))
    levels = _levels(limits.max_context)
    segments = _segments(op.window, limits.max_context, levels)
    per_token = limits.max_sequences * heads * segments * value * 4
    short = max(1, min(SHORT, SCRATCH_BYTES // per_token))
    work = WorkClass(op.window, rows // group, short, SEGMENT, levels)
    return AttentionTiles(group, kv_heads, key, value, key_pool.dtype, rows, segments, work)


def work_classes(graph: Graph, limits: Limits) -> tuple[WorkClass, ...]:
    """The classes of a graph's attention layers, in the order that work is stored in."""
    nodes = (node for node in graph.nodes if isinstance(node.op, PagedAttention))
    return tuple(dict.fromkeys(tiles_of(node, limits).work for node in nodes))


def _levels(max_context: int) -> int:
    """How often segments double until PER_LEVEL of them reach the end."""
    reach, levels = PER_LEVEL * SEGMENT, 0
    while reach < max_context and levels < MOST_LEVELS:
        levels += 1
        reach += PER_LEVEL * SEGMENT << levels
    return levels


def _segments(window: int, max_context: int, levels: int) -> int:
    """The most segments that SHORT query tokens see, at any position."""
    count, end = 0, 0
    while end < max_context:
        end += SEGMENT << min(count // PER_LEVEL, levels)
        count += 1
    if window:
        count = min(count, (window + SHORT - 2) // SEGMENT + 2)
    return count


@dataclass(frozen=True)
class KeyLoop:
    """How a kernel goes through keys: KEYS at a time, with so many warps and stages."""

    keys: int
    num_warps: int
    num_stages: int


def key_loop(tiles: AttentionTiles, machine: Machine) -> KeyLoop:
    """The same for every form of a layer. Accumulators of ROWS x head stand twice in registers.

    Tiles are large ones that don't spill, by compiling them; f32 has no tensor cores. Where a warp
    group multiplies, 8 warps would do the same products twice.
    """
    head = max(tiles.key_block, tiles.value_block)
    warps = max(4, tiles.rows // 16)
    grouped = machine.sm // 10 in (9, 10)
    if tiles.cache is DType.F32:
        return KeyLoop(16, warps, 2)
    if head > 128:
        return KeyLoop(16, 2 * warps, 3)
    if head > 64:
        return KeyLoop(32, warps if grouped else 2 * warps, 4 if grouped else 3)
    if tiles.cache is DType.I8 and not grouped:  # codes become bf16 in registers
        return KeyLoop(32, 2 * warps, 3)
    return KeyLoop(64 if machine.sm < 120 else 32, warps, 3)
