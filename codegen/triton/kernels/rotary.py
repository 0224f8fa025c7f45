"""Rotary embedding: rows of heads read and rotated on the way, and a kernel that does only that."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def load_rotated(
    x_ptr,
    cos_ptr,
    sin_ptr,
    angles,
    inside,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Heads of HEAD elements as f32 [rows, BLOCK], their first ROTARY elements rotated (0: none).

    x_ptr [rows, 1] points to each row's head; angles [rows, 1] says where in cos and sin the
    ROTARY / 2 angles of its token begin. Zeros from HEAD on, and where `inside` [rows, 1] is false.
    """
    columns = tl.arange(0, BLOCK)[None, :]
    mask = inside & (columns < HEAD)
    x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    if ROTARY > 0:
        if INTERLEAVED:
            first = columns % 2 == 0
            partner = columns ^ 1
            angle = columns // 2
        else:
            first = columns < ROTARY // 2
            partner = tl.where(first, columns + ROTARY // 2, columns - ROTARY // 2)
            angle = tl.where(first, columns, columns - ROTARY // 2)
        rotated = mask & (columns < ROTARY)
        other = tl.load(x_ptr + partner, mask=rotated, other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + angles + angle, mask=rotated, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + angles + angle, mask=rotated, other=0.0).to(tl.float32)
        x = x * cos + tl.where(first, -sin, sin) * other
    return x


@triton.jit
def rotary_rows(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    tokens,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """x [T, HEADS, HEAD] → out of the same shape, rotated; a row of a tile is one head of a token.

    Strides are elements between tokens; BLOCK >= HEAD is a power of two.
    Grid: ceil(T * HEADS / BLOCK_ROWS).
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    token = (row // HEADS).to(tl.int64)
    inside = row < tokens * HEADS
    at = row % HEADS * HEAD
    x = load_rotated(
        x_ptr + token * X_STRIDE + at,
        cos_ptr,
        sin_ptr,
        token * TABLE_STRIDE,
        inside,
        HEAD,
        BLOCK,
        ROTARY,
        INTERLEAVED,
    )
    to = out_ptr + token * OUT_STRIDE + at + columns
    tl.store(to, x.to(out_ptr.dtype.element_ty), mask=inside & (columns < HEAD))
