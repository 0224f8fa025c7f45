"""Weights row after row: the layout of runtimes that have formats and kernels of their own.

Matrices [E, N, K] are E * N rows. Sections of a quantized one, all little-endian:

| format                     | codes              | scales            | then                  |
|----------------------------|--------------------|-------------------|-----------------------|
| `i8c`                      | i8 [rows, K]       | f32 [rows]        |                       |
| `f8c`                      | E4M3 [rows, K]     | f32 [rows]        |                       |
| `i8b`, `i5s`               | 8 bits [rows, Kp]  | f32 [rows, Kp/32] |                       |
| `i6k`                      | 8 bits [rows, Kp]  | f32 [rows, Kp/16] |                       |
| `i4s`                      | 4 bits [rows, Kp]  | f32 [rows, Kp/32] |                       |
| `i4a`, `i4k`               | u4 [rows, Kp]      | f32 [rows, Kp/32] | minima f32, as scales |
| `i5a`, `i5k`               | u8 [rows, Kp]      | f32 [rows, Kp/32] | minima f32, as scales |

Kp is K rounded up to whole blocks. Two 4-bit codes share a byte, the first in the low half, as in
ONNX's int4 (onnx.proto) and in TensorRT's. Codes without minima are signed, or unsigned with 128 or
8 added, as ONNX Runtime's MatMulNBits takes them without zero points. A scale is the block's own,
times that of its super-block where there are such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..ir.types import DType
from .formats.elements import to_elements
from .formats.number_format import NumberFormat, Quantized
from .formats.registry import format_of, is_quantized

Array = np.ndarray


@dataclass(frozen=True)
class RowLayout:
    """`unsigned`: whether codes around zero are stored with half their range added."""

    unsigned: bool = False

    @property
    def name(self) -> str:
        return "rows-unsigned" if self.unsigned else "rows"

    def sections(self, dtype: DType, shape: Sequence[int]) -> tuple[int, ...]:
        """Bytes of codes, scales and minima."""
        *lead, n, k = shape
        rows = prod(lead) * n
        if not is_quantized(dtype):
            return (rows * k * dtype.itemsize,)
        format = format_of(dtype)
        codes = rows * code_columns(format, k) * format.row_bits // 8
        scales = rows * scales_per_row(format, k) * 4
        return (codes, scales, scales) if format.has_mins else (codes, scales)

    def pack(self, dtype: DType, rows: Quantized | Array) -> tuple[Array, ...]:
        """Bytes that these rows add to each section.

        Raises:
            ValueError: `rows` isn't of that format.
        """
        if not isinstance(rows, Quantized):
            if is_quantized(dtype):
                raise ValueError(f"{dtype} rows must be quantized before packing")
            return (_bytes(to_elements(rows, dtype)),)
        format = rows.format
        if format.dtype is not dtype:
            raise ValueError(f"{format.dtype} rows can't be packed as {dtype}")
        codes = rows.codes[:, : code_columns(format, rows.k)]
        packed = format.packed(codes, unsigned=self.unsigned and not format.per_row)
        parts = [_bytes(packed), _bytes(rows.block_scales())]
        mins = rows.block_mins()
        if mins is not None:
            parts.append(_bytes(mins))
        return tuple(parts)


def code_columns(format: NumberFormat, k: int) -> int:
    """Codes that a row of `k` columns has here: whole blocks where these have scales."""
    return k if format.per_row else format.padded(k)


def scales_per_row(format: NumberFormat, k: int) -> int:
    """Scales of a row of `k` columns."""
    return 1 if format.per_row else format.blocks(k)


def _bytes(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
