"""Weights row after row: the layout of runtimes that have formats and kernels of their own.

Matrices [E, N, K] are E * N rows. Sections of a quantized one, all little-endian:

| format | codes                    | scales             | then                  |
|--------|--------------------------|--------------------|-----------------------|
| `i8c`  | i8 [rows, K]             | f32 [rows]         |                       |
| `i8b`  | 8 bits [rows, Kp]        | f32 [rows, Kp/32]  |                       |
| `i4s`  | 4 bits [rows, Kp]        | f32 [rows, Kp/32]  |                       |
| `i4a`  | u4 [rows, Kp]            | f32 [rows, Kp/32]  | minima f32, as scales |

Kp is K rounded up to 32. Two 4-bit codes share a byte, the first in the low half, as in ONNX's
int4 (onnx.proto) and in TensorRT's. Codes of `i8b` and `i4s` are signed, or unsigned with 128 or 8
added, as ONNX Runtime's MatMulNBits takes them without zero points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from .quantization import BLOCK, Quantized, WeightFormat, padded_k, to_bf16

Array = np.ndarray
_FLOAT_BYTES = {WeightFormat.F32: 4, WeightFormat.BF16: 2}
_FOUR_BITS = (WeightFormat.I4S, WeightFormat.I4A)


@dataclass(frozen=True)
class RowLayout:
    """`unsigned`: whether codes around zero are stored with half their range added."""

    unsigned: bool = False

    @property
    def name(self) -> str:
        return "rows-unsigned" if self.unsigned else "rows"

    def sections(self, format: WeightFormat, shape: Sequence[int]) -> tuple[int, ...]:
        """Bytes of codes, scales and minima."""
        *lead, n, k = shape
        rows = prod(lead) * n
        if not format.is_quantized:
            return (rows * k * _FLOAT_BYTES[format],)
        if format is WeightFormat.I8C:
            return rows * k, rows * 4
        codes = rows * padded_k(k) // (2 if format in _FOUR_BITS else 1)
        scales = rows * padded_k(k) // BLOCK * 4
        return (codes, scales, scales) if format is WeightFormat.I4A else (codes, scales)

    def pack(self, format: WeightFormat, rows: Quantized | Array) -> tuple[Array, ...]:
        """Bytes that these rows add to each section.

        Raises:
            ValueError: `rows` isn't of that format.
        """
        if not isinstance(rows, Quantized):
            if format.is_quantized:
                raise ValueError(f"{format} rows must be quantized before packing")
            return (_bytes(to_bf16(rows) if format is WeightFormat.BF16 else rows),)
        if rows.format is not format:
            raise ValueError(f"{rows.format} rows can't be packed as {format}")
        if format is WeightFormat.I8C:
            return _bytes(rows.codes[:, : rows.k]), _bytes(rows.scales)
        parts = [_bytes(self._codes(rows)), _bytes(rows.scales.astype(np.float32))]
        if rows.mins is not None:
            parts.append(_bytes(rows.mins.astype(np.float32)))
        return tuple(parts)

    def _codes(self, rows: Quantized) -> Array:
        """Codes as they are stored, two 4-bit ones a byte."""
        codes = rows.codes.view(np.uint8)
        if rows.format is WeightFormat.I8B:
            return codes + np.uint8(128) if self.unsigned else codes
        if rows.format is WeightFormat.I4S and not self.unsigned:
            codes = (codes - np.uint8(8)) & np.uint8(15)
        return codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)


def _bytes(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
