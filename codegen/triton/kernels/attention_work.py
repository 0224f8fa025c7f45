"""How attention of a step is divided into work items, for the kernel that counts and those that do.

Keys are divided into segments at absolute positions: `PER_LEVEL` segments of SEGMENT keys, then as
many of twice as many keys, and so on for LEVELS levels; the last goes on for ever. So a short
context has enough items to fill a device, and a long one has few enough partial results to merge.

A sequence with at most SHORT query tokens (decoding, drafts to verify) has an item for each tile
of TILE query tokens and segment of keys that the sequence sees; a longer one an item for each
tile, which goes through the segments by itself. All functions work on scalars and on tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

PER_LEVEL: tl.constexpr = tl.constexpr(16)


@triton.jit
def segment_of(position, SEGMENT: tl.constexpr, LEVELS: tl.constexpr):
    """The segment that a key's position lies in."""
    level = position * 0
    for i in tl.static_range(LEVELS):
        level += (position >= PER_LEVEL * SEGMENT * ((2 << i) - 1)).to(tl.int32)
    inside = position - PER_LEVEL * SEGMENT * ((1 << level) - 1)
    LOG: tl.constexpr = SEGMENT.bit_length() - 1
    return level * PER_LEVEL + (inside >> (level + LOG))


@triton.jit
def segment_start(segment, SEGMENT: tl.constexpr, LEVELS: tl.constexpr):
    """The first position of a segment."""
    level = tl.minimum(segment // PER_LEVEL, LEVELS)
    first = PER_LEVEL * SEGMENT * ((1 << level) - 1)
    return first + (segment - level * PER_LEVEL) * (SEGMENT << level)


@triton.jit
def first_visible(position, WINDOW: tl.constexpr):
    """The first key that a query at `position` sees."""
    if WINDOW > 0:
        return tl.maximum(position - WINDOW + 1, 0)
    return position * 0


@triton.jit
def items_of(
    queries,
    context,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    SHORT: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Items of a sequence for one head of keys: `queries` new tokens, `context` with them."""
    tiles = (queries + TILE - 1) // TILE
    first = segment_of(first_visible(context - queries, WINDOW), SEGMENT, LEVELS)
    last = segment_of(tl.maximum(context - 1, 0), SEGMENT, LEVELS)
    return tl.where(queries <= SHORT, tiles * (last - first + 1), tiles)


@triton.jit
def item_of(
    place,
    queries,
    context,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    SHORT: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """The sequence's item number `place`: (tile, lowest, segments, segment, after).

    It takes segments `segment` … `after` - 1 for a tile of query tokens. The sequence sees
    `segments` from `lowest` on; they are divided among items if it is short.
    """
    earlier = context - queries
    lowest = segment_of(first_visible(earlier, WINDOW), SEGMENT, LEVELS)
    segments = segment_of(context - 1, SEGMENT, LEVELS) - lowest + 1
    if queries <= SHORT:
        tile = place // segments
        segment = lowest + place - tile * segments
        after = segment + 1
    else:
        tile = place
        segment = segment_of(first_visible(earlier + tile * TILE, WINDOW), SEGMENT, LEVELS)
        last = tl.minimum(earlier + tile * TILE + TILE, context) - 1
        after = segment_of(last, SEGMENT, LEVELS) + 1
    return tile, lowest, segments, segment, after


@triton.jit
def interval_of(bounds_ptr, place, count):
    """The last i < count with bounds[i] <= place, for ascending bounds with bounds[0] <= place."""
    low = place * 0
    high = low + count
    while high - low > 1:
        middle = (low + high) // 2
        below = tl.load(bounds_ptr + middle) <= place
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle)
    return low
