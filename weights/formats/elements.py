"""Plain floating element types: float32 values to stored elements and back.

bfloat16 and E4M3, which numpy lacks, are stored as their bits. Rounding is half to even. The 8-bit
floats of the OCP's specifications (OFP8, Microscaling) are read by a table of their 256 values.
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


E4M3_MAX = 448.0
"""The largest number that E4M3 has; infinity isn't among them."""
_E4M3_NORMAL = np.float32(2.0**-6)


def to_e4m3(values: Array) -> Array:
    """Bits (u8) of finite float32 `values` rounded to E4M3, half to even; those beyond the largest
    number become that one."""
    values = np.ascontiguousarray(values, np.float32)
    size = np.minimum(np.abs(values), np.float32(E4M3_MAX))
    bits = size.view(np.uint32)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (127 - 7 << 3)
    small = np.rint(size * np.float32(2.0**9)).astype(np.uint32)  # steps of subnormal numbers
    found = np.where(size < _E4M3_NORMAL, small, normal)
    return (found | np.signbit(values).astype(np.uint32) << 7).astype(np.uint8)


def _float8(exponent_bits: int, bias: int, infinite: bool) -> Array:
    """The values of all bytes with a sign, `exponent_bits` and the rest of mantissa."""
    mantissa_bits = 7 - exponent_bits
    bits = np.arange(128)
    exponent, mantissa = bits >> mantissa_bits, bits & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = exponent > 0
    values = np.where(normal, 1 + fraction, fraction) * 2.0 ** (np.maximum(exponent, 1) - bias)
    if infinite:  # as in IEEE 754: the largest exponent is infinity, or NaN with a mantissa
        top = exponent == (1 << exponent_bits) - 1
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    else:
        values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


_POWERS = np.append(2.0 ** (np.arange(255) - 127.0), np.nan).astype(np.float32)
FLOAT8 = {"e4m3": _float8(4, 7, False), "e5m2": _float8(5, 15, True), "e8m0": _POWERS}
"""float32 values of the 256 bytes of each 8-bit float type."""
