"""What work items of attention leave in scratch, and how that becomes results.

Scratch: partial f32 [S, KV_HEADS, SEGMENTS, SHORT * GROUP, VALUE] and stats f32
[…, SHORT * GROUP, 2]: the greatest score and the sum. Row r of a sequence is token r // GROUP of
its query tokens, head r % GROUP of the group.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention_rows import finish, merge

CHUNK: tl.constexpr = tl.constexpr(8)
"""Rows that are merged at a time: few registers, so that many segments are on their way."""


@triton.jit
def is_last(counter_ptr, count):
    """Whether `count` - 1 others have left their results: then the counter is 0 again."""
    tl.debug_barrier()  # the stores of all threads come before the arrival
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


@triton.jit
def merge_rows(
    sinks_ptr,
    partial_ptr,
    stats_ptr,
    out_ptr,
    base,
    segments,
    first_token,
    tokens,
    head,
    GROUP: tl.constexpr,
    STRIDE: tl.constexpr,
    VALUE: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Rows `base` … of scratch and those STRIDE behind them, in order → `tokens` rows of out.

    Other programs wrote scratch: it's read past the first cache.
    """
    columns = tl.arange(0, VALUE_BLOCK)[None, :]
    for first in range(0, tokens * GROUP, CHUNK):
        row = first + tl.arange(0, CHUNK)
        owned = row < tokens * GROUP
        mask = owned[:, None] & (columns < VALUE)
        top = tl.full((CHUNK,), float("-inf"), tl.float32)
        total = tl.zeros((CHUNK,), tl.float32)
        mixed = tl.zeros((CHUNK, VALUE_BLOCK), tl.float32)
        for i in tl.range(segments, loop_unroll_factor=4):
            at = base + i * STRIDE + row
            stats = stats_ptr + at * 2
            best = tl.load(stats, mask=owned, other=float("-inf"), cache_modifier=".cg")
            weight = tl.load(stats + 1, mask=owned, other=0.0, cache_modifier=".cg")
            values = partial_ptr + at[:, None] * VALUE + columns
            values = tl.load(values, mask=mask, other=0.0, cache_modifier=".cg")
            top, total, mixed = merge(top, total, mixed, best, weight, values, SCALE, SOFTCAP)
        heads = head * GROUP + row % GROUP
        result = finish(top, total, mixed, sinks_ptr, heads, SCALE, SOFTCAP, SINKS)
        rows_ptr = out_ptr + (first_token + row // GROUP).to(tl.int64)[:, None] * OUT_STRIDE
        store_result(rows_ptr, heads, result, owned, VALUE)


@triton.jit
def store_partial(partial_ptr, stats_ptr, at, top, total, mixed, owned, VALUE: tl.constexpr):
    """Rows `at` i64[ROWS] of scratch."""
    columns = tl.arange(0, mixed.shape[1])[None, :]
    mask = owned[:, None] & (columns < VALUE)
    tl.store(partial_ptr + at[:, None] * VALUE + columns, mixed, mask=mask)
    tl.store(stats_ptr + at * 2, top, mask=owned)
    tl.store(stats_ptr + at * 2 + 1, total, mask=owned)


@triton.jit
def store_result(rows_ptr, heads, result, owned, VALUE: tl.constexpr):
    """rows_ptr [ROWS, 1]: where each row's token begins; heads i32[ROWS]."""
    columns = tl.arange(0, result.shape[1])[None, :]
    to = rows_ptr + heads[:, None] * VALUE + columns
    mask = owned[:, None] & (columns < VALUE)
    tl.store(to, result.to(rows_ptr.dtype.element_ty), mask=mask)
