"""What attention of a step needs first: its queries ready to be multiplied, its keys and values in
the paged cache. One launch for both, since all of their rows are heads to be rotated."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .cache_codes import hadamard
from .cache_write import elements_of_head, write_keys, write_values
from .rotary import load_rotated


@triton.jit
def prepare_heads(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    sequence_of_ptr,
    positions_ptr,
    block_table_ptr,
    queries_ptr,
    pool_ptr,
    tokens,
    sequences,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    Q_ROTARY: tl.constexpr,
    K_ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HADAMARD: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """q [T, HEADS, KEY] → queries [T, HEADS, KEY rounded up to 16], zeros (or what a Hadamard
    matrix makes of them) in the padding; k [T, KV_HEADS, KEY], v [T, KV_HEADS, VALUE] → pool, at
    positions i32[T] of sequence_of i32[T].

    The first Q_ROTARY and K_ROTARY elements of heads are rotated by cos and sin [T, angles],
    TABLE_STRIDE elements a token. HADAMARD: size of the matrix that runs of a query are multiplied
    with (0: none), as an int8 cache's keys are. Tokens with sequence_of >= sequences are nobody's:
    their keys are not written. pool_ptr points to the layer's part of block 0, typed as the
    cache's elements; block_table i32 [S, COLUMNS]. KEY_BLOCK and VALUE_BLOCK are powers of two
    >= the head sizes rounded up to 16. HEADS or KV_HEADS may be 0; what belongs to them is None
    then. Grid: (ceil(T / BLOCK_TOKENS), HEADS + KV_HEADS).
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    head = tl.program_id(1)
    row = token.to(tl.int64)[:, None]
    if HEADS > 0 and head < HEADS:
        to = queries_ptr + (row * HEADS + head) * ((KEY + 15) // 16 * 16)
        inside = (token < tokens)[:, None]
        q = load_rotated(
            q_ptr + row * Q_STRIDE + head * KEY, cos_ptr, sin_ptr, row * TABLE_STRIDE, inside,
            KEY, KEY_BLOCK, Q_ROTARY, INTERLEAVED,
        )  # fmt: skip
        _store_queries(to, q, inside, KEY, HADAMARD)
    if KV_HEADS > 0 and head >= HEADS:
        head -= HEADS
        at, place, owned = _slots(
            sequence_of_ptr, positions_ptr, block_table_ptr, pool_ptr, token, tokens, sequences,
            COLUMNS, BLOCK_BYTES,
        )  # fmt: skip
        at += head * elements_of_head(pool_ptr, KEY, VALUE)
        keys = load_rotated(
            k_ptr + row * K_STRIDE + head * KEY, cos_ptr, sin_ptr, row * TABLE_STRIDE,
            owned[:, None], KEY, KEY_BLOCK, K_ROTARY, INTERLEAVED,
        )  # fmt: skip
        write_keys(at, place, keys, owned, KEY, VALUE)
        columns = tl.arange(0, VALUE_BLOCK)[None, :]
        values_ptr = v_ptr + row * V_STRIDE + head * VALUE + columns
        values = tl.load(values_ptr, mask=owned[:, None] & (columns < VALUE), other=0.0)
        write_values(at, place, values.to(tl.float32), owned, KEY, VALUE)


@triton.jit
def _store_queries(to, q, inside, KEY: tl.constexpr, HADAMARD: tl.constexpr):
    """q f32 [rows, KEY_BLOCK] → rows that begin at `to` [rows, 1]."""
    if HADAMARD > 0:
        q = hadamard(q, HADAMARD)
    columns = tl.arange(0, q.shape[1])[None, :]
    stored = inside & (columns < (KEY + 15) // 16 * 16)
    tl.store(to + columns, q.to(to.dtype.element_ty), mask=stored)


@triton.jit
def _slots(
    sequence_of_ptr, positions_ptr, block_table_ptr, pool_ptr, token, tokens, sequences,
    COLUMNS: tl.constexpr, BLOCK_BYTES: tl.constexpr,
):  # fmt: skip
    """Of each token: its block in the pool, the place in it, and whether it is a sequence's."""
    BYTES: tl.constexpr = pool_ptr.dtype.element_ty.primitive_bitwidth // 8
    inside = token < tokens
    sequence = tl.load(sequence_of_ptr + token, mask=inside, other=sequences)
    owned = inside & (sequence < sequences)
    position = tl.load(positions_ptr + token, mask=owned, other=0)
    block = tl.load(block_table_ptr + sequence * COLUMNS + position // 64, mask=owned, other=0)
    return pool_ptr + block.to(tl.int64) * (BLOCK_BYTES // BYTES), position % 64, owned
