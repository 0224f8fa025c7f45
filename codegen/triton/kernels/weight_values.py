"""Single weights of any format as numbers: for tables whose rows are looked up.

In: a buffer as `codegen/triton/layout.py` stores it, rows and columns that broadcast against one
another. Out: f32 values, what `NumberFormat.dequantize` gives.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .block_format import (
    code_bits,
    has_factors,
    has_mins,
    scales_per_row,
    section_at,
    super_length,
    zero_code,
)
from .fragments import e4m3_to_f32


@triton.jit
def row_scaled_values(
    w_ptr, row, column, FORMAT: tl.constexpr, ROWS: tl.constexpr, K: tl.constexpr
):
    """Of i8c and f8c: codes in fragment order, 64 columns at a time, then f32 scales of rows."""
    STRIDE: tl.constexpr = (K + 63) // 64 * 64
    SCALES: tl.constexpr = (ROWS * STRIDE + 63) // 64 * 64
    place = column // 2 % 4 * 16 + column // 16 % 4 * 4 + column // 8 % 2 * 2 + column % 2
    code = tl.load(w_ptr + row * STRIDE + column // 64 * 64 + place)
    scale = tl.load((w_ptr + SCALES).to(tl.pointer_type(tl.float32)) + row)
    if FORMAT == "f8c":
        return e4m3_to_f32(code) * scale
    return code.to(tl.int8, bitcast=True).to(tl.float32) * scale


@triton.jit
def block_code(w_ptr, row, column, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr):
    """The code of a weight in panels, less the zero code, as f32."""
    block = row // 16 * ((K + 31) // 32) + column // 32
    lane = row % 8 * 4 + column % 16 // 4
    half, lower, i = column // 16 % 2, row // 8 % 2, column % 4
    BITS: tl.constexpr = code_bits(FORMAT)
    if BITS == 8:
        at = (block * 32 + lane) * 16 + half * 8 + lower * 4 + i
        code = tl.load(w_ptr + at).to(tl.int8, bitcast=True).to(tl.int32)
    else:
        at = (block * 32 + lane) * 8 + lower * 4 + i
        code = (tl.load(w_ptr + at).to(tl.int32) >> (half * 4).to(tl.int32)) & 15
        if BITS > 4:
            BYTES: tl.constexpr = 2 * (BITS - 4)
            high_ptr = w_ptr + section_at(FORMAT, PANELS, K, "high")
            high = tl.load(high_ptr + (block * 32 + lane) * BYTES + i % BYTES).to(tl.int32)
            shift = i // 2 * 4 + half * 2 + lower if BITS == 5 else lower * 4 + half * 2
            code += ((high >> shift.to(tl.int32)) & ((1 << (BITS - 4)) - 1)) * 16
    return (code - zero_code(FORMAT)).to(tl.float32)


@triton.jit
def block_number(
    w_ptr, row, column, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    NAME: tl.constexpr, TYPE: tl.constexpr, COLUMNS: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """f32 of number `column` of a row, in a section of COLUMNS / EACH times EACH a row."""
    start = (w_ptr + section_at(FORMAT, PANELS, K, NAME)).to(tl.pointer_type(TYPE))
    group = (row // 16 * (COLUMNS // EACH) + column // EACH) * 16 + row % 8 * 2 + row // 8 % 2
    return tl.load(start + group * EACH + column % EACH).to(tl.float32)


@triton.jit
def block_values(w_ptr, row, column, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr):
    """Of formats in panels: `scale * (code - zero code) + minimum`."""
    COUNT: tl.constexpr = scales_per_row(FORMAT, K)
    FACTORS: tl.constexpr = (K + 31) // 32 * 2
    block = column // 32
    of = block // super_length(K) if has_factors(FORMAT) else block
    scale = block_number(w_ptr, row, of, FORMAT, PANELS, K, "scales", tl.float16, COUNT, 1)
    if FORMAT == "i6k":
        scale *= block_number(
            w_ptr, row, column // 16, FORMAT, PANELS, K, "factors", tl.int8, FACTORS, 2
        )
    elif has_factors(FORMAT):
        scale *= block_number(
            w_ptr, row, block * 2, FORMAT, PANELS, K, "factors", tl.uint8, FACTORS, 2
        )
    value = block_code(w_ptr, row, column, FORMAT, PANELS, K) * scale
    if has_mins(FORMAT):
        low = block_number(w_ptr, row, of, FORMAT, PANELS, K, "mins", tl.float16, COUNT, 1)
        if has_factors(FORMAT):
            low *= block_number(
                w_ptr, row, block * 2 + 1, FORMAT, PANELS, K, "factors", tl.uint8, FACTORS, 2
            )
        value += low
    return value
