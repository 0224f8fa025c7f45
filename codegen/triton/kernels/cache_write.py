"""A step's keys and values go into the paged cache: rotated, rounded or coded on the way."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .cache_codes import encode_keys, encode_values, hadamard
from .rotary import load_rotated


@triton.jit
def cache_write(
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    sequence_of_ptr,
    positions_ptr,
    block_table_ptr,
    pool_ptr,
    tokens,
    sequences,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """k [T, H_kv, KEY] and v [T, H_kv, VALUE] → pool, at positions i32[T] of sequence_of i32[T].

    Tokens with sequence_of >= sequences are nobody's and not written. pool_ptr points to the
    layer's part of block 0, typed as the cache's elements; cos and sin [T, ROTARY / 2] are
    TABLE_STRIDE elements a token; block_table i32 [S, COLUMNS]. KEY_BLOCK and VALUE_BLOCK are
    powers of two >= the head sizes rounded up to 16. Grid: (ceil(T / BLOCK_TOKENS), H_kv).
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    KEY_WIDTH: tl.constexpr = (KEY + 15) // 16 * 16
    VALUE_WIDTH: tl.constexpr = (VALUE + 15) // 16 * 16
    CODES: tl.constexpr = pool_ptr.dtype.element_ty == tl.int8
    BYTES: tl.constexpr = pool_ptr.dtype.element_ty.primitive_bitwidth // 8
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    head = tl.program_id(1)
    inside = token < tokens
    sequence = tl.load(sequence_of_ptr + token, mask=inside, other=sequences)
    owned = inside & (sequence < sequences)
    position = tl.load(positions_ptr + token, mask=owned, other=0)
    block = tl.load(block_table_ptr + sequence * COLUMNS + position // 64, mask=owned, other=0)
    HEAD_STRIDE: tl.constexpr = 64 * (KEY_WIDTH + VALUE_WIDTH) + (512 if CODES else 0)
    at = pool_ptr + block.to(tl.int64) * (BLOCK_BYTES // BYTES) + head * HEAD_STRIDE
    place = position % 64

    columns = tl.arange(0, KEY_BLOCK)[None, :]
    row = token.to(tl.int64)[:, None]
    mask = owned[:, None] & (columns < KEY)
    keys = load_rotated(
        k_ptr + row * K_STRIDE + head * KEY,
        cos_ptr + row * TABLE_STRIDE,
        sin_ptr + row * TABLE_STRIDE,
        columns,
        mask,
        ROTARY,
        INTERLEAVED,
    )
    scales_ptr = (at + 64 * (KEY_WIDTH + VALUE_WIDTH)).to(tl.pointer_type(tl.float32)) + place
    if CODES:
        SIZE: tl.constexpr = KEY_WIDTH & -KEY_WIDTH
        keys, scale = encode_keys(hadamard(keys, SIZE), SIZE)
        tl.store(scales_ptr, scale, mask=owned)
    to = at[:, None] + place[:, None] * KEY_WIDTH + columns
    # Padding up to the width is written, too: zeros, or an int8 key's rotated elements.
    stored = owned[:, None] & (columns < KEY_WIDTH)
    tl.store(to, keys.to(pool_ptr.dtype.element_ty), mask=stored)

    columns = tl.arange(0, VALUE_BLOCK)[None, :]
    mask = owned[:, None] & (columns < VALUE)
    values = tl.load(v_ptr + row * V_STRIDE + head * VALUE + columns, mask=mask, other=0.0)
    values = values.to(tl.float32)
    if CODES:
        values, scale = encode_values(values)
        tl.store(scales_ptr + 64, scale, mask=owned)
    to = at[:, None] + 64 * KEY_WIDTH + place[:, None] * VALUE_WIDTH + columns
    stored = owned[:, None] & (columns < VALUE_WIDTH)
    tl.store(to, values.to(pool_ptr.dtype.element_ty), mask=stored)
