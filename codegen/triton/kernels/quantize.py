"""Quantized activations: codes and scales of rows that a kernel holds.

In: f32 tiles. Out: codes (as f32 that are whole numbers, or in an 8-bit float type) and their
scales, by the same arithmetic as `QuantizeRows`: scale = largest |x| / LIMIT, code = x / scale,
rounded to the nearest even whole number where codes are integers. Divisions are exact (`div_rn`),
so that codes are those of the reference.
"""

import triton
import triton.language as tl

BLOCK = tl.constexpr(32)
"""Elements that share a scale."""
INT8_LIMIT = tl.constexpr(127.0)
FP8_LIMIT = tl.constexpr(448.0)
_ROUNDING = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it leaves no bits behind the point, and rounds halves to even."""


@triton.jit
def round_half_even(x):
    """f32 whole numbers; |x| < 2**22."""
    return (x + _ROUNDING) - _ROUNDING


@triton.jit
def block_codes(y, ROWS: tl.constexpr, N: tl.constexpr):
    """f32[ROWS, N] → codes f32[ROWS, N], scale f32[ROWS, N/32], total f32[ROWS, N/32]."""
    blocks = tl.reshape(y, (ROWS, N // BLOCK, BLOCK))
    scale = tl.div_rn(
        tl.max(tl.abs(blocks), axis=2), tl.full((ROWS, N // BLOCK), 127.0, tl.float32)
    )
    divisor = tl.where(scale == 0.0, 1.0, scale)[:, :, None]
    codes = round_half_even(tl.div_rn(blocks, tl.broadcast_to(divisor, (ROWS, N // BLOCK, BLOCK))))
    total = scale * tl.sum(codes, axis=2)
    return tl.reshape(codes, (ROWS, N)), scale, total


@triton.jit
def row_scale(largest, element: tl.constexpr):
    """Scales of what has the `largest` |x| f32[…], for codes of the type `element`."""
    limit = tl.full(largest.shape, INT8_LIMIT if element == tl.int8 else FP8_LIMIT, tl.float32)
    return tl.div_rn(largest, limit)


@triton.jit
def row_codes(y, scale, element: tl.constexpr):
    """f32[ROWS, N], f32[ROWS] → codes [ROWS, N] of the type `element`: int8 or an 8-bit float."""
    divisor = tl.where(scale == 0.0, 1.0, scale)[:, None]
    codes = tl.div_rn(y, tl.broadcast_to(divisor, y.shape))
    if element == tl.int8:
        return round_half_even(codes).to(element)
    else:  # noqa: RET505 (the compiler needs both sides)
        return tl.clamp(codes, -FP8_LIMIT, FP8_LIMIT).to(element)
