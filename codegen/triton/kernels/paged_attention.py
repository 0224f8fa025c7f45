"""Attention of a step's query tokens over the paged cache.

One launch with any number of programs takes the work items that `attention_work` defines, whose
prefix sums `step_metadata` made. Rows of a tile are query tokens x query heads of one head of
keys: row r is token r // GROUP, head r % GROUP. Items of short sequences leave what they saw
of their segment in scratch; who arrives last merges the segments in order (or a second kernel
does, with the same bits).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .attention_merge import merge_rows, store_partial, store_result
from .attention_rows import attend_segment, finish, merge
from .attention_work import first_visible, interval_of, segment_of, segment_start
from .rotary import load_rotated


@triton.jit
def paged_attention(
    q_ptr,
    pool_ptr,
    sinks_ptr,
    cos_ptr,
    sin_ptr,
    query_start_ptr,
    context_len_ptr,
    block_table_ptr,
    work_ptr,
    partial_ptr,
    stats_ptr,
    arrivals_ptr,
    out_ptr,
    sequences,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SHORT: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    MERGES: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """q [T, H, KEY] → out [T, H, VALUE]; rows of tokens that belong to nobody stay as they are.

    Over an int8 cache, q is what `rotary_rows` with HADAMARD has made: bf16 [T, H, KEY rounded up
    to 16], and ROTARY is 0.

    pool_ptr: the layer's part of block 0, typed as the cache's elements; work_ptr: i32[S + 1],
    the prefix sums for WINDOW, TILE = ROWS // GROUP, SHORT, SEGMENT, LEVELS. Scratch for S
    sequences: partial f32 [S, KV_HEADS, SEGMENTS, SHORT * GROUP, VALUE], stats f32
    […, SHORT * GROUP, 2], arrivals i32 [S, KV_HEADS, ceil(SHORT / TILE)], zeros before the
    first launch and left so. SEGMENTS: the most that a short sequence sees. KEY_BLOCK,
    VALUE_BLOCK: powers of two >= head sizes rounded up to 16. Where not MERGES,
    `merge_segments` has to follow. Any grid.
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    TILE: tl.constexpr = ROWS // GROUP
    BYTES: tl.constexpr = pool_ptr.dtype.element_ty.primitive_bitwidth // 8
    CODES: tl.constexpr = pool_ptr.dtype.element_ty == tl.int8
    KEY_WIDTH: tl.constexpr = (KEY + 15) // 16 * 16
    VALUE_WIDTH: tl.constexpr = (VALUE + 15) // 16 * 16
    HEAD_STRIDE: tl.constexpr = 64 * (KEY_WIDTH + VALUE_WIDTH) + (512 if CODES else 0)
    QUERY: tl.constexpr = KEY_WIDTH if CODES else KEY
    row = tl.arange(0, ROWS)
    count = tl.load(work_ptr + sequences) * KV_HEADS
    for i in tl.range(tl.program_id(0), count, tl.num_programs(0), disable_licm=True):
        # The last first: later segments and tiles have the most keys.
        item = count - 1 - i
        head = item % KV_HEADS
        place = item // KV_HEADS
        sequence = interval_of(work_ptr, place, sequences)
        place -= tl.load(work_ptr + sequence)
        first_token = tl.load(query_start_ptr + sequence)
        queries_len = tl.load(query_start_ptr + sequence + 1) - first_token
        context = tl.load(context_len_ptr + sequence)

        earlier = context - queries_len
        lowest = segment_of(first_visible(earlier, WINDOW), SEGMENT, LEVELS)
        segments = segment_of(context - 1, SEGMENT, LEVELS) - lowest + 1
        short = queries_len <= SHORT
        tile = tl.where(short, place // segments, place)
        token = tile * TILE + row // GROUP
        owned = (token < queries_len) & (row < TILE * GROUP)
        positions = tl.where(owned, earlier + token, -1)
        # What the whole tile sees, and of it this item's segments.
        start = first_visible(earlier + tile * TILE, WINDOW)
        end = earlier + tl.minimum(tile * TILE + TILE, queries_len)
        segment = tl.where(short, lowest + place % segments, segment_of(start, SEGMENT, LEVELS))
        after = tl.where(short, segment + 1, segment_of(end - 1, SEGMENT, LEVELS) + 1)

        query_row = (first_token + token).to(tl.int64)[:, None]
        query_head = head * GROUP + row % GROUP
        queries = load_rotated(
            q_ptr + query_row * Q_STRIDE + query_head[:, None] * QUERY,
            cos_ptr + query_row * TABLE_STRIDE,
            sin_ptr + query_row * TABLE_STRIDE,
            tl.arange(0, KEY_BLOCK)[None, :],
            owned[:, None] & (tl.arange(0, KEY_BLOCK)[None, :] < QUERY),
            ROTARY,
            INTERLEAVED,
        ).to(tl.bfloat16 if CODES else pool_ptr.dtype.element_ty)
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        mixed = tl.zeros((ROWS, VALUE_BLOCK), tl.float32)
        for each in tl.range(segment, after, disable_licm=True):
            begin = tl.maximum(segment_start(each, SEGMENT, LEVELS), start // KEYS * KEYS)
            segment_top, segment_total, segment_mixed = attend_segment(
                queries,
                positions,
                pool_ptr + head * HEAD_STRIDE,
                block_table_ptr + sequence * COLUMNS,
                begin,
                tl.minimum(segment_start(each + 1, SEGMENT, LEVELS), end),
                KEY,
                VALUE,
                VALUE_BLOCK,
                BLOCK_BYTES // BYTES,
                SCALE,
                SOFTCAP,
                WINDOW,
                KEYS,
            )
            top, total, mixed = merge(
                top, total, mixed, segment_top, segment_total, segment_mixed, SCALE, SOFTCAP
            )

        if short & (segments > 1):
            base = (sequence * KV_HEADS + head).to(tl.int64) * SEGMENTS * (SHORT * GROUP)
            base += tile * (TILE * GROUP)
            at = base + (segment - lowest) * (SHORT * GROUP) + row
            store_partial(partial_ptr, stats_ptr, at, top, total, mixed, owned, VALUE)
            if MERGES:
                TILES: tl.constexpr = (SHORT + TILE - 1) // TILE
                counter = arrivals_ptr + (sequence * KV_HEADS + head) * TILES + tile
                tl.debug_barrier()  # the stores of all threads come before the arrival
                if tl.atomic_add(counter, 1, sem="acq_rel") == segments - 1:
                    tl.store(counter, 0)
                    merge_rows(
                        sinks_ptr,
                        partial_ptr,
                        stats_ptr,
                        out_ptr,
                        base,
                        segments,
                        first_token + tile * TILE,
                        tl.minimum(queries_len - tile * TILE, TILE),
                        head,
                        GROUP,
                        SHORT * GROUP,
                        VALUE,
                        VALUE_BLOCK,
                        OUT_STRIDE,
                        SCALE,
                        SOFTCAP,
                        SINKS,
                    )
        else:
            result = finish(top, total, mixed, sinks_ptr, query_head, SCALE, SOFTCAP, SINKS)
            store_result(out_ptr + query_row * OUT_STRIDE, query_head, result, owned, VALUE)
