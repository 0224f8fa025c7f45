"""Attention of a step's query tokens over the paged cache.

One launch with any number of programs takes the work items that `attention_work` defines, whose
prefix sums `step_metadata` made. Rows of a tile are query tokens x query heads of one head of
keys: row r is token r // GROUP, head r % GROUP. Items of short sequences leave what they saw
of their segment in scratch; who arrives last merges the segments in order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .attention_merge import is_last, merge_rows, store_partial, store_result
from .attention_rows import attend_segments, finish
from .attention_work import first_visible, interval_of, item_of
from .cache_write import elements_of_head


@triton.jit
def paged_attention(
    queries_ptr,
    pool_ptr,
    sinks_ptr,
    slopes_ptr,
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
    OUT_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
    SLOPES: tl.constexpr,
    SHORT: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """queries [T, H, KEY rounded up to 16] → out [T, H, VALUE]; rows of tokens that belong to
    nobody stay as they are.

    Queries are what `prepare_heads` has made, in the type that they are multiplied in.
    pool_ptr: the layer's part of block 0, typed as the cache's elements; work_ptr: i32[S + 1],
    the prefix sums for WINDOW, TILE = ROWS // GROUP, SHORT, SEGMENT, LEVELS. Scratch for S
    sequences: partial f32 [S, KV_HEADS, SEGMENTS, SHORT * GROUP, VALUE], stats f32
    […, SHORT * GROUP, 2], arrivals i32 [S, KV_HEADS, ceil(SHORT / TILE)], zeros before the
    first launch and left so. SEGMENTS: the most that a short sequence sees. KEY_BLOCK,
    VALUE_BLOCK: powers of two >= head sizes rounded up to 16. Any grid.
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    TILE: tl.constexpr = ROWS // GROUP
    BYTES: tl.constexpr = pool_ptr.dtype.element_ty.primitive_bitwidth // 8
    row = tl.arange(0, ROWS)
    count = tl.load(work_ptr + sequences) * KV_HEADS
    for i in tl.range(tl.program_id(0), count, tl.num_programs(0), disable_licm=True):
        # The last first: later segments and tiles have the most keys.
        item = count - 1 - i
        head = item % KV_HEADS
        sequence = interval_of(work_ptr, item // KV_HEADS, sequences)
        place = item // KV_HEADS - tl.load(work_ptr + sequence)
        first_token = tl.load(query_start_ptr + sequence)
        queries_len = tl.load(query_start_ptr + sequence + 1) - first_token
        context = tl.load(context_len_ptr + sequence)
        tile, lowest, segments, segment, after = item_of(
            place, queries_len, context, WINDOW, TILE, SHORT, SEGMENT, LEVELS
        )
        earlier = context - queries_len
        token = tile * TILE + row // GROUP
        owned = (token < queries_len) & (row < TILE * GROUP)
        query_row = (first_token + token).to(tl.int64)[:, None]
        query_head = head * GROUP + row % GROUP
        top, total, mixed = attend_segments(
            _load_queries(
                queries_ptr, query_row * (GROUP * KV_HEADS) + query_head[:, None], owned,
                KEY, KEY_BLOCK,
            ),
            tl.where(owned, earlier + token, -1),
            _load_slopes(slopes_ptr, query_head, SCALE, SOFTCAP, SLOPES),
            pool_ptr + head * elements_of_head(pool_ptr, KEY, VALUE),
            block_table_ptr + sequence * COLUMNS,
            segment, after,
            first_visible(earlier + tile * TILE, WINDOW),
            tl.minimum(earlier + tile * TILE + TILE, context),
            KEY, VALUE, VALUE_BLOCK, BLOCK_BYTES // BYTES, SCALE, SOFTCAP, WINDOW,
            SLOPES, SEGMENT, LEVELS, KEYS,
        )  # fmt: skip
        if (queries_len <= SHORT) & (segments > 1):
            pair = sequence * KV_HEADS + head
            base = pair.to(tl.int64) * (SEGMENTS * SHORT * GROUP) + tile * (TILE * GROUP)
            at = base + (segment - lowest) * (SHORT * GROUP) + row
            store_partial(partial_ptr, stats_ptr, at, top, total, mixed, owned, VALUE)
            TILES: tl.constexpr = (SHORT + TILE - 1) // TILE
            if is_last(arrivals_ptr + pair * TILES + tile, segments):
                merge_rows(
                    sinks_ptr, partial_ptr, stats_ptr, out_ptr, base, segments,
                    first_token + tile * TILE, tl.minimum(queries_len - tile * TILE, TILE), head,
                    GROUP, SHORT * GROUP, VALUE, VALUE_BLOCK, OUT_STRIDE, SCALE, SOFTCAP, SINKS,
                )  # fmt: skip
        else:
            result = finish(top, total, mixed, sinks_ptr, query_head, SCALE, SOFTCAP, SINKS)
            store_result(out_ptr + query_row * OUT_STRIDE, query_head, result, owned, VALUE)


@triton.jit
def _load_slopes(
    slopes_ptr, heads, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr
):
    """f32 [ROWS], the slopes of heads i32 [ROWS] in units of unscaled scores."""
    if not SLOPES:
        return tl.zeros(heads.shape, tl.float32)
    UNIT: tl.constexpr = SOFTCAP if SOFTCAP > 0 else SCALE
    return tl.load(slopes_ptr + heads).to(tl.float32) * (1.0 / UNIT)


@triton.jit
def _load_queries(queries_ptr, rows, owned, KEY: tl.constexpr, KEY_BLOCK: tl.constexpr):
    """Rows i64 [ROWS, 1] of queries, zeros from KEY on and for rows that aren't owned."""
    WIDTH: tl.constexpr = (KEY + 15) // 16 * 16
    columns = tl.arange(0, KEY_BLOCK)[None, :]
    mask = owned[:, None] & (columns < WIDTH)
    return tl.load(queries_ptr + rows * WIDTH + columns, mask=mask, other=0.0)
