"""Weights in floats of 8 or 4 bits with scales, and what a number format of ours can do with them.

E4M3 with one scale a row is a format of ours; other 8-bit floats with scales aren't. A 4-bit float
(E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) is half an integer up to 12, so a block of 32
with a power of two as scale, as in MXFP4, is exactly one of 5-bit codes.

Source: the OCP's Microscaling Formats specification 1.0; NVIDIA's NVFP4 has groups of 16 with a
scale in E4M3, times one scale for the weight. The first of two codes is in a byte's low half.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ....ir.types import DType
from ....weights.formats.number_format import Quantized
from ....weights.formats.registry import format_of
from ....weights.recipes import CheckpointTensor
from .parts import Parts
from .scales import Scales
from .weight import Array, Floats, Rows, Shape, StoredWeight

FLOAT8_WEIGHTS = ("e4m3", "e5m2")
MX_GROUP = 32
_TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
_HALF_EXPONENTS = (104, 143)  # bytes whose half, 2^(byte - 128), is a float16
_SCANNED = 1 << 20


@dataclass(frozen=True)
class RowFloats8:
    """E4M3 codes with a scale a row: `codes` gives bytes [n, K], `scales` float32 [n, 1]."""

    shape: Shape
    codes: Rows
    scales: Rows
    stored: str = "fp8_channel"

    def values(self, rows: Array) -> Array:
        """Numbers times scales."""
        return format_of(DType.F8C).numbers(self.codes(rows)) * self.scales(rows)

    def blocks(self, rows: Array) -> Quantized:
        """Codes and scales as they are."""
        k, format = self.shape[-1], format_of(DType.F8C)
        codes = np.pad(self.codes(rows), ((0, 0), (0, format.padded(k) - k)))
        scales = np.array(self.scales(rows)[:, 0], np.float32)
        return Quantized(format, codes, scales, None, k)


def float8_weight(tensor: CheckpointTensor, scales: Scales, parts: Parts) -> StoredWeight:
    """The weight of 8-bit floats in `tensor`, times its scales."""
    k = tensor.of[-1]
    if tensor.stored == "e4m3" and scales.group >= k:
        return RowFloats8(tensor.of, parts.bytes_of(tensor), scales.rows)

    def values(rows: Array) -> Array:
        return parts.rows(tensor, rows) * scales.columns(rows, k)

    return Floats(tensor.of, "fp8", values)


def float4_weight(shape: Shape, packed: Rows, scales: Scales, factor: float = 1.0) -> Floats:
    """A weight of 4-bit floats: `packed` gives bytes [n, K / 2]; times scales and `factor`."""
    k = shape[-1]

    def values(rows: Array) -> Array:
        scaled = scales.columns(rows, k) * np.float32(factor / 2)
        return _TWICE[_codes(packed(rows), k)] * scaled

    return Floats(shape, "nvfp4", values)


@dataclass(frozen=True)
class MxFloats4:
    """An MXFP4 weight: `packed` gives bytes [n, K / 2], `exponents` bytes [n, K / 32]."""

    shape: Shape
    packed: Rows
    exponents: Rows
    stored: str

    def values(self, rows: Array) -> Array:
        """Codes times powers of two."""
        k = self.shape[-1]
        codes = _TWICE[_codes(self.packed(rows), k)].astype(np.float32)
        powers = self.exponents(rows).astype(np.int32) - 128
        return np.ldexp(codes, powers[:, np.arange(k) // MX_GROUP])

    def blocks(self, rows: Array) -> Quantized:
        """Twice the codes, with half the scales."""
        k, format = self.shape[-1], format_of(DType.I5S)
        powers = self.exponents(rows).astype(np.int32) - 128
        scales = np.ldexp(np.float32(1), powers).astype(np.float16)
        codes = (_TWICE[_codes(self.packed(rows), k)] + format.zero_code).astype(np.uint8)
        return Quantized(format, codes, scales, None, k)


def mx_weight(shape: Shape, packed: Rows, exponents: Rows) -> MxFloats4:
    """An MXFP4 weight, which is held exactly if its scales are within float16's range."""
    count = prod(shape[:-1])
    step = max(1, _SCANNED // max(1, shape[-1] // MX_GROUP))
    low, high = _HALF_EXPONENTS
    fits = all(
        low <= found.min() and found.max() <= high
        for start in range(0, count, step)
        for found in [exponents(np.arange(start, min(count, start + step)))]
    )
    return MxFloats4(shape, packed, exponents, "mxfp4" if fits else "wide_mxfp4")


def _codes(packed: Array, k: int) -> Array:
    """Bytes [n, K / 2] as codes [n, K]."""
    data = np.ascontiguousarray(packed)
    low_high = np.stack([data & 15, data >> 4], axis=-1)
    return low_high.reshape(len(data), -1)[:, :k]
