"""The arithmetic of attention for a tile of rows: one segment of keys, merging segments, the end.

A row is a query token of one query head; a tile's rows share a head of keys. What a row has seen so
far is (top, total, mixed): its greatest score, the softmax's sum relative to it, and the values
weighted so. Scores are kept unscaled; UNIT times log2(e) makes them exponents of 2.

Everything here is the same whatever the tile's other rows are, and rows that see none of a tile's
keys or of a segment come out exactly as they went in. Sums of products are spelled out as `fma`
where a compiler might fuse them in one place and not in another: a token gets the same bits from a
step of its own and in the middle of a long prompt.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention_work import segment_start

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def attend_segments(
    queries,
    positions,
    slopes,
    head_ptr,
    table_ptr,
    segment,
    after,
    start,
    end,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    SLOPES: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """What rows see of segments `segment` … `after` - 1 between the keys `start` and `end`.

    Each is gone through by itself and then merged, as if another program had done it.
    """
    ROWS: tl.constexpr = queries.shape[0]
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, VALUE_BLOCK), tl.float32)
    for each in tl.range(segment, after, disable_licm=True):
        begin = tl.maximum(segment_start(each, SEGMENT, LEVELS), start // KEYS * KEYS)
        segment_end = tl.minimum(segment_start(each + 1, SEGMENT, LEVELS), end)
        segment_top, segment_total, segment_mixed = attend_segment(
            queries, positions, slopes, head_ptr, table_ptr, begin, segment_end,
            KEY, VALUE, VALUE_BLOCK, BLOCK_STRIDE, SCALE, SOFTCAP, WINDOW, SLOPES, KEYS,
        )  # fmt: skip
        top, total, mixed = merge(
            top, total, mixed, segment_top, segment_total, segment_mixed, SCALE, SOFTCAP
        )
    return top, total, mixed


@triton.jit
def attend_segment(
    queries,
    positions,
    slopes,
    head_ptr,
    table_ptr,
    begin,
    end,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    SLOPES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """queries [ROWS, KEY_BLOCK] at positions i32[ROWS] over the keys begin … end - 1.

    With SLOPES, slopes f32[ROWS] times the distance of a key are added to unscaled scores.
    `begin` is a multiple of KEYS, which divides 64. head_ptr: this head's part of block 0;
    table_ptr: the sequence's row of the block table. Keys at or behind `end` are never used,
    but keys are read up to the end of a tile. Returns (top, total, mixed).
    """
    ROWS: tl.constexpr = queries.shape[0]
    CODES: tl.constexpr = head_ptr.dtype.element_ty == tl.int8
    KEY_WIDTH: tl.constexpr = (KEY + 15) // 16 * 16
    VALUE_WIDTH: tl.constexpr = (VALUE + 15) // 16 * 16
    UNIT: tl.constexpr = (SOFTCAP if SOFTCAP > 0 else SCALE) * LOG2E
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, VALUE_BLOCK), tl.float32)
    for first in range(begin, end, KEYS):
        block = tl.load(table_ptr + first // 64).to(tl.int64)
        place = first % 64 + tl.arange(0, KEYS)
        key = first + tl.arange(0, KEYS)
        at = head_ptr + block * BLOCK_STRIDE
        scales_ptr = (at + 64 * (KEY_WIDTH + VALUE_WIDTH)).to(tl.pointer_type(tl.float32)) + place
        keys = _load_keys(at, place, queries.shape[1], KEY_WIDTH if CODES else KEY, KEY_WIDTH)
        scores = tl.dot(queries, tl.trans(keys.to(queries.dtype)), input_precision="ieee")
        if CODES:
            scores = scores * tl.load(scales_ptr)[None, :]
        if SOFTCAP > 0:
            scores = _tanh(scores * (SCALE / SOFTCAP))
        if SLOPES:
            distance = (key[None, :] - positions[:, None]).to(tl.float32)
            scores = tl.fma(distance, slopes[:, None], scores)
        visible = (key[None, :] <= positions[:, None]) & (key < end)[None, :]
        if WINDOW > 0:
            visible = visible & (key[None, :] > positions[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        best = tl.maximum(top, tl.max(scores, 1))
        anchor = tl.where(best == float("-inf"), 0.0, best)
        weights = tl.exp2(tl.fma(scores, UNIT, -(anchor * UNIT)[:, None]))
        fading = tl.exp2((top - anchor) * UNIT)
        total = tl.fma(total, fading, tl.sum(weights, 1))
        values = _load_values(at + 64 * KEY_WIDTH, place, key < end, VALUE, VALUE_BLOCK)
        if CODES:
            scale = tl.load(scales_ptr + 64, mask=key < end, other=0.0)
            weights = weights * scale[None, :]
        mixed = mixed * fading[:, None]
        operand = values.to(queries.dtype)
        mixed = tl.dot(weights.to(queries.dtype), operand, mixed, input_precision="ieee")
        top = best
    return top, total, mixed


@triton.jit
def _load_keys(at, place, BLOCK: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Keys [KEYS, BLOCK], zeros from SIZE on. What was never written may be anything."""
    columns = tl.arange(0, BLOCK)
    pointers = at + place[:, None] * WIDTH + columns[None, :]
    if BLOCK == SIZE:
        return tl.load(pointers)
    return tl.load(pointers, mask=(columns < SIZE)[None, :], other=0)


@triton.jit
def _load_values(at, place, written, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Values [KEYS, BLOCK], zeros from SIZE on and where nothing was written: 0 x NaN is NaN."""
    WIDTH: tl.constexpr = (SIZE + 15) // 16 * 16
    columns = tl.arange(0, BLOCK)
    pointers = at + place[:, None] * WIDTH + columns[None, :]
    if BLOCK == SIZE:
        return tl.load(pointers, mask=written[:, None], other=0)
    return tl.load(pointers, mask=written[:, None] & (columns < SIZE)[None, :], other=0)


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (tl.exp2(x * (2 * LOG2E)) + 1.0)


@triton.jit
def merge(
    top,
    total,
    mixed,
    segment_top,
    segment_total,
    segment_mixed,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """What was seen up to a segment, and in it. A first segment's bits are kept as they are."""
    UNIT: tl.constexpr = (SOFTCAP if SOFTCAP > 0 else SCALE) * LOG2E
    best = tl.maximum(top, segment_top)
    anchor = tl.where(best == float("-inf"), 0.0, best)
    before = tl.exp2((top - anchor) * UNIT)
    now = tl.exp2((segment_top - anchor) * UNIT)
    total = tl.fma(total, before, segment_total * now)
    mixed = tl.fma(mixed, before[:, None], segment_mixed * now[:, None])
    return best, total, mixed


@triton.jit
def finish(
    top,
    total,
    mixed,
    sinks_ptr,
    heads,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):
    """The result [ROWS, VALUE_BLOCK]; with SINKS, heads i32[ROWS] says whose sink takes part."""
    if SINKS:
        UNIT: tl.constexpr = (SOFTCAP if SOFTCAP > 0 else SCALE) * LOG2E
        sink = tl.load(sinks_ptr + heads).to(tl.float32)
        best = tl.maximum(top * UNIT, sink * LOG2E)
        kept = tl.exp2(tl.fma(top, UNIT, -best))
        total = tl.fma(total, kept, tl.exp2(tl.fma(sink, LOG2E, -best)))
        mixed = mixed * kept[:, None]
    return mixed * (1.0 / total)[:, None]
