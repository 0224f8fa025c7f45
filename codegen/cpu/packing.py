"""The byte layout of weight matrices for the CPU kernels: rows in, packed panels out, and back.

A matrix W [N, K] becomes panels of 16 rows behind one another (N is padded to 16 with rows that
mean zero). Every level of every processor reads the same bytes. All panels of a tensor have one
size, a multiple of 64 bytes; the tensor starts at a multiple of 64. Numbers are little-endian.

Inside a panel, lane r (0..15) is row r of the panel, and a *line* is 64 bytes:

`f32`
    K lines. Line k: 16 f32, lane r at byte 4r.
`bf16`
    ceil(K/2) lines. Line j: lane r holds k = 2j and 2j+1 at bytes 4r and 4r+2; odd K ends in zeros.

The integer formats go by blocks of 32 k, whose codes are lines as `panel_codes.py` describes; K is
padded with the format's zero code.

`i8c`
    A line of 16 f32 row scales, then the 8-bit codes of each block.
`i8b`, `i5s`, `i4s`
    Blocks in pairs: a line with 16 f16 scales of the first and 16 f16 scales of the second block,
    then the codes of both. An odd number of blocks is padded with a block that means zero.
`i5a`, `i4a`
    Each block: a line with 16 f16 scales and 16 f16 minima, then its codes.
`i5k`, `i4k`
    Super-blocks (`super_block_length`): a line with 16 f16 scales and 16 f16 minima; for each block
    16 bytes, factor + 64 * (min_factor mod 4); for each two blocks 16 bytes, min_factor div 4 of
    the first in the low and of the second in the high half; padding to a line; then the codes of
    each block. The last super-block is padded with blocks that mean zero.
`i6k`
    16 f16 scales for each super-block, padded to lines. Then for each two blocks of 32: a line with
    16 i8 factors of each 16 k, then the codes of both, the last pair padded with zeros.

Experts [E, N, K] are E packed tensors behind one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...base.errors import LlmcError
from ...ir.tiles import PANEL
from ...ir.types import DType
from ...weights.formats.elements import from_bf16, to_elements
from ...weights.formats.number_format import Quantized, concatenate
from ...weights.formats.registry import format_of, is_quantized
from .panel_records import fill_panels, panel_type, read_panels

Array = np.ndarray

MAX_K = 1 << 18
"""Columns of the widest matrix that the kernels take (their scratch memory per row is bounded)."""

PACKED: tuple[DType, ...] = (
    DType.F32, DType.BF16, DType.I8C, DType.I8B, DType.I6K,
    DType.I5S, DType.I5A, DType.I5K, DType.I4S, DType.I4A, DType.I4K,
)  # fmt: skip
"""The formats that the kernels read."""

_LINE = 64
# Rows that are transposed at a time: bounds the temporaries and keeps them near the cache.
_ROWS = 64


def panel_bytes(dtype: DType, k: int) -> int:
    """Bytes of one panel of a matrix with `k` columns.

    Raises LLMC-E0231 for a format that isn't `PACKED`, LLMC-E0416 for more than `MAX_K` columns.
    """
    if dtype not in PACKED:
        raise LlmcError("LLMC-E0231", f"target cpu has no kernels for weights in {dtype}")
    if k > MAX_K:
        raise LlmcError(
            "LLMC-E0416", f"a linear layer has {k} inputs, the cpu target takes {MAX_K}"
        )
    if not is_quantized(dtype):
        return -(-k * dtype.itemsize // 4) * _LINE
    return panel_type(format_of(dtype), k).itemsize


def packed_bytes(dtype: DType, n: int, k: int) -> int:
    """Bytes of a packed matrix [n, k]."""
    return -(-n // PANEL) * panel_bytes(dtype, k)


def pack(dtype: DType, rows: Quantized | Array) -> Array:
    """Packs a slice of rows: u8 [panels, panel_bytes].

    `rows` is `Quantized` for the integer formats (of the same format), else float32 [N, K]; `bf16`
    also takes u16 [N, K], the bits. A number of rows that isn't a multiple of 16 is padded, so only
    a tensor's last slice may have one.

    Raises:
        ValueError: `rows` isn't of that format.
    """
    if isinstance(rows, Quantized):
        if rows.format.dtype is not dtype:
            raise ValueError(f"{rows.format.dtype} rows can't be packed as {dtype}")
        count, k = rows.rows, rows.k
    else:
        if is_quantized(dtype):
            raise ValueError(f"{dtype} rows must be quantized before packing")
        count, k = rows.shape
    panels = -(-count // PANEL)
    out = np.empty((panels, panel_bytes(dtype, k)), np.uint8)
    for start in range(0, count, _ROWS):
        target = out[start // PANEL : (start + _ROWS) // PANEL]
        if isinstance(rows, Quantized):
            _pack_quantized(rows.take(slice(start, start + _ROWS)), target)
        else:
            _pack_floats(dtype, rows[start : start + _ROWS], target)
    return out


class PanelLayout:
    """The layout of this file, under the name that recipes and manifests give it."""

    name = "panel16"

    def sections(self, dtype: DType, shape: Sequence[int]) -> tuple[int, ...]:
        """One section: the panels of all matrices."""
        *experts, n, k = shape
        return (prod(experts) * packed_bytes(dtype, n, k),)

    def pack(self, dtype: DType, rows: Quantized | Array) -> tuple[Array, ...]:
        """Panels of a slice of rows (`pack`)."""
        return (pack(dtype, rows),)


PANEL16 = PanelLayout()


def unpack(dtype: DType, packed: Array, n: int, k: int) -> Quantized | Array:
    """The inverse of `pack`: `Quantized`, or float32 [n, k] for `f32` and `bf16`; all exact."""
    packed = packed.reshape(-1, panel_bytes(dtype, k))
    if is_quantized(dtype):
        format = format_of(dtype)
        return read_panels(format, packed.view(panel_type(format, k))[:, 0], k).take(slice(0, n))
    return _unpack_floats(dtype, packed, n, k)


def _pack_floats(dtype: DType, rows: Array, out: Array) -> None:
    if rows.dtype != np.uint16:
        rows = to_elements(np.asarray(rows, np.float32), dtype)
    step = 4 // dtype.itemsize  # a lane is 4 bytes: one f32 or two bf16
    count, k = rows.shape
    if count < out.shape[0] * PANEL or k % step:
        padded = np.zeros((out.shape[0] * PANEL, -(-k // step) * step), rows.dtype)
        padded[:count, :k] = rows
        rows = padded
    lanes = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, PANEL, out.shape[1] // _LINE)
    out.view(np.uint32).reshape(-1, lanes.shape[2], PANEL)[...] = lanes.transpose(0, 2, 1)


def _unpack_floats(dtype: DType, packed: Array, n: int, k: int) -> Array:
    lanes = packed.view(np.uint32).reshape(packed.shape[0], -1, PANEL).transpose(0, 2, 1)
    lanes = np.ascontiguousarray(lanes).reshape(packed.shape[0] * PANEL, -1)[:n]
    if dtype is DType.F32:
        return lanes.view(np.float32)
    return from_bf16(lanes.view(np.uint16)[:, :k])


def _pack_quantized(rows: Quantized, out: Array) -> None:
    rows = _pad_rows(rows, out.shape[0] * PANEL)
    fill_panels(rows, out.view(panel_type(rows.format, rows.k))[:, 0])


def _pad_rows(rows: Quantized, count: int) -> Quantized:
    missing = count - rows.rows
    return concatenate([rows, rows.format.zero_rows(missing, rows.k)]) if missing else rows
