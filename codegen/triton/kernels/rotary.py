"""Rotary embedding: rows of heads read and rotated on the way, and a kernel that does only that.

The kernel also makes of queries what meets the keys of an int8 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .cache_codes import hadamard


@triton.jit
def load_rotated(
    x_ptr,
    cos_ptr,
    sin_ptr,
    columns,
    mask,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Heads as f32, their first ROTARY elements rotated (none for 0).

    x_ptr [rows, 1] points to each row's head, cos_ptr and sin_ptr [rows, 1] to the ROTARY / 2
    angles of its token; columns [1, D]; mask [rows, D]. Elsewhere the result is 0.
    """
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
        cos = tl.load(cos_ptr + angle, mask=rotated, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + angle, mask=rotated, other=0.0).to(tl.float32)
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
    WIDTH: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HADAMARD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """x [T, HEADS, HEAD] → out [T, HEADS, WIDTH], rotated; a row of a tile is one head of a token.

    With HADAMARD > 0, each run of so many elements is then multiplied with the Hadamard matrix;
    what HEAD lacks of WIDTH counts as zeros. Strides are elements between tokens; BLOCK >= WIDTH
    is a power of two. Grid: ceil(T * HEADS / BLOCK_ROWS).
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    token = (row // HEADS).to(tl.int64)
    head = row % HEADS
    mask = (row < tokens * HEADS) & (columns < HEAD)
    x = load_rotated(
        x_ptr + token * X_STRIDE + head * HEAD,
        cos_ptr + token * TABLE_STRIDE,
        sin_ptr + token * TABLE_STRIDE,
        columns,
        mask,
        ROTARY,
        INTERLEAVED,
    )
    if HADAMARD > 0:
        x = hadamard(x, HADAMARD)
    to = out_ptr + token * OUT_STRIDE + head * WIDTH + columns
    mask = (row < tokens * HEADS) & (columns < WIDTH)
    tl.store(to, x.to(out_ptr.dtype.element_ty), mask=mask)
