"""Plain floating element types: float32 values to stored elements and back.

bfloat16, which numpy lacks, is stored as its bits (u16). Rounding is half to even.
"""

from __future__ import annotations

import numpy as np

from ...ir.types import DType

Array = np.ndarray


def to_elements(values: Array, dtype: DType) -> Array:
    """`values` as they are stored: bits u16 for bf16, numpy's f16 or f32, integers unchanged."""
    if dtype is DType.BF16:
        return to_bf16(values)
    return values.astype(np.float16) if dtype is DType.F16 else values


def rounded(values: Array, dtype: DType) -> Array:
    """float32 `values` rounded to a floating element type, as float32."""
    if dtype is DType.BF16:
        return from_bf16(to_bf16(values))
    return values.astype(np.float16).astype(np.float32) if dtype is DType.F16 else values


def to_bf16(values: Array) -> Array:
    """Bits (u16) of finite float32 `values` rounded to bfloat16, half to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """float32 values of bfloat16 `bits` (u16)."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
