"""The layout of weights on GPUs: how matrices [N, K], or of experts [E, N, K], become bytes.

All numbers are little-endian. Three kinds:

- Plain elements (f32, bf16, f16): rows [E * N, K]. From a row to the next are `row_stride`
  elements, K rounded up to 16 bytes; zeros pad it.
- Codes with one scale a row (`i8c`, `f8c`): rows of codes in *fragment order*, `row_stride` is K
  rounded up to 64; then f32 scales [E * N]. Of each 64 columns, column `16 s + 8 h + 2 q + j`
  stands at place `16 q + 4 s + 2 h + j` (q, s < 4; h, j < 2): what a thread feeds to the tensor
  core are 16 bytes in a row.
- All others, with scales per block: panels of 16 rows, `mma_panels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...ir.tiles import round_up
from ...ir.types import DType
from ...weights.formats.elements import from_bf16, to_elements
from ...weights.formats.number_format import Quantized
from ...weights.formats.registry import dequantize, format_of, is_quantized
from ...weights.layout import section_offsets
from . import mma_panels

Array = np.ndarray

ROW_BYTES = 16
"""Bytes that rows of plain elements are rounded up to."""
FRAGMENT = 64
"""Columns of codes that are ordered together where a scale is a row's."""


class TritonLayout:
    """The layout of this file, under the name that recipes and manifests give it."""

    name = "mma16"

    def sections(self, dtype: DType, shape: Sequence[int]) -> tuple[int, ...]:
        """Bytes of each section of a matrix [N, K] or of matrices [E, N, K]."""
        *experts, n, k = shape
        rows = prod(experts) * n
        if not is_quantized(dtype):
            return (rows * row_stride(dtype, k) * dtype.itemsize,)
        if format_of(dtype).per_row:
            return (rows * row_stride(dtype, k), rows * 4)
        return mma_panels.sections(format_of(dtype), prod(experts), n, k)

    def pack(self, dtype: DType, rows: Quantized | Array) -> tuple[Array, ...]:
        """Bytes that these rows add to each section.

        A number of rows with scales per block that isn't a multiple of 16 is padded, so only a
        matrix's last slice may have one.

        Raises:
            ValueError: `rows` isn't of that format.
        """
        if not isinstance(rows, Quantized):
            if is_quantized(dtype):
                raise ValueError(f"{dtype} rows must be quantized before packing")
            return (_bytes(_plain_rows(dtype, rows)),)
        if rows.format.dtype is not dtype:
            raise ValueError(f"{rows.format.dtype} rows can't be packed as {dtype}")
        if rows.format.per_row:
            return (_bytes(_fragments(rows)), _bytes(rows.scales))
        return tuple(_bytes(array) for array in mma_panels.packed(rows))


TRITON_LAYOUT = TritonLayout()


def row_stride(dtype: DType, k: int) -> int:
    """Elements, or codes, from a row to the next; of types that aren't in panels."""
    step = FRAGMENT if is_quantized(dtype) else ROW_BYTES // dtype.itemsize
    return round_up(k, step)


def in_panels(dtype: DType) -> bool:
    """Whether matrices of this type are panels of 16 rows."""
    return is_quantized(dtype) and not format_of(dtype).per_row


def block_constants(dtype: DType, shape: Sequence[int]) -> dict[str, str | int]:
    """What kernels must know of matrices [.., N, K] in panels, as their constexprs call it."""
    *experts, n, k = shape
    return {"FORMAT": str(dtype), "PANELS": prod(experts) * mma_panels.panels_of(n), "K": k}


def unpack(dtype: DType, shape: Sequence[int], data: Array) -> Array:
    """The float32 values of `shape` that packed bytes (u8, all sections as stored) stand for."""
    *experts, n, k = shape
    sizes = TRITON_LAYOUT.sections(dtype, shape)
    parts = [data[at : at + size] for at, size in zip(section_offsets(sizes), sizes, strict=True)]
    if not is_quantized(dtype):
        return (
            _plain_values(dtype, parts[0]).reshape(-1, row_stride(dtype, k))[:, :k].reshape(shape)
        )
    format = format_of(dtype)
    if format.per_row:
        codes = _from_fragments(parts[0].reshape(-1, row_stride(dtype, k)))
        codes = np.ascontiguousarray(codes[:, : format.padded(k)]).view(format.code_type)
        scales = parts[1].view(np.float32)
        return dequantize(Quantized(format, codes, scales, None, k)).reshape(shape)
    values = dequantize(mma_panels.unpacked(format, k, parts)).reshape(prod(experts), -1, k)
    return np.ascontiguousarray(values[:, :n]).reshape(shape)


def _plain_rows(dtype: DType, rows: Array) -> Array:
    elements = to_elements(np.asarray(rows, np.float32), dtype)
    return np.pad(elements, ((0, 0), (0, row_stride(dtype, rows.shape[1]) - rows.shape[1])))


def _plain_values(dtype: DType, data: Array) -> Array:
    if dtype is DType.BF16:
        return from_bf16(data.view(np.uint16))
    return data.view(np.float16 if dtype is DType.F16 else np.float32).astype(np.float32)


def _fragments(rows: Quantized) -> Array:
    codes = rows.codes[:, : rows.k].view(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, row_stride(rows.format.dtype, rows.k) - rows.k)))
    return codes.reshape(len(codes), -1, 4, 2, 4, 2).transpose(0, 1, 4, 2, 3, 5)


def _from_fragments(codes: Array) -> Array:
    axes = codes.reshape(len(codes), -1, 4, 4, 2, 2).transpose(0, 1, 3, 4, 2, 5)
    return axes.reshape(codes.shape)


def _bytes(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
