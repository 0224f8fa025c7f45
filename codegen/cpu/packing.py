"""The byte layout of weight matrices for the CPU kernels: rows in, packed panels out, and back.

A matrix W [N, K] becomes panels of 16 rows behind one another (N is padded to 16 with rows that
mean zero). Every level of every processor reads the same bytes. All panels of a tensor have one
size, a multiple of 64 bytes; the tensor starts at a multiple of 64. Numbers are little-endian.

Inside a panel, lane r (0..15) is row r of the panel, and a *line* is 64 bytes:

`f32`
    K lines. Line k: 16 f32, lane r at byte 4r.
`bf16`
    ceil(K/2) lines. Line j: lane r holds k = 2j and 2j+1 at bytes 4r and 4r+2; odd K ends in zeros.

The integer formats go by blocks of 32 k; K is padded with the format's zero code. A *chunk* c
(0..7) of a block is 16 rows x 4 k: byte 4r+i belongs to lane r and k = 4c + i of the block, the
shape that 4-way integer dot products want. Codes are stored unsigned.

8-bit data of a block (512 bytes)
    8 lines, line c is chunk c; a byte is the code + 128.
4-bit data of a block (256 bytes)
    4 lines; line c holds chunk c in the low and chunk c + 4 in the high nibbles.

`i8c`
    A line of 16 f32 row scales, then the 8-bit data of each block.
`i8b`, `i4s`
    Blocks in pairs: a line with 16 f16 scales of the first and 16 f16 scales of the second block,
    then the data of both (8-bit for `i8b`, 4-bit for `i4s`). An odd number of blocks is padded with
    a block that means zero.
`i4a`
    Each block: a line with 16 f16 scales and 16 f16 minima, then its 4-bit data.

Experts [E, N, K] are E packed tensors behind one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...base.errors import LlmcError
from ...ir.tiles import BLOCK, PANEL
from ...ir.types import DType
from ...weights.formats.elements import from_bf16, to_elements
from ...weights.formats.number_format import NumberFormat, Quantized, concatenate
from ...weights.formats.registry import format_of, is_quantized

Array = np.ndarray

MAX_K = 1 << 18
"""Columns of the widest matrix that the kernels take (their scratch memory per row is bounded)."""

PACKED: tuple[DType, ...] = (DType.F32, DType.BF16, DType.I8C, DType.I8B, DType.I4S, DType.I4A)
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
    format = format_of(dtype)
    unit = _unit_type(format, k)
    return -(-format.blocks(k) // unit["data"].shape[0]) * unit.itemsize


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
        return _unpack_quantized(format_of(dtype), packed, n, k)
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
    fields = out.view(_unit_type(rows.format, rows.k))
    _, units, per_unit, _, _ = fields["data"].shape
    blocks = units * per_unit
    codes, scales = rows.codes.view(np.uint8), rows.scales
    if codes.shape[1] < blocks * BLOCK:  # an odd number of blocks in a format that pairs them
        codes = np.pad(codes, ((0, 0), (0, BLOCK)), constant_values=rows.format.zero_code)
        scales = np.pad(scales, ((0, 0), (0, 1)))
    chunks = codes.view(np.uint32).reshape(-1, PANEL, units, per_unit, 8).transpose(0, 2, 3, 4, 1)
    if rows.format.bits == 8:
        np.bitwise_xor(chunks, np.uint32(0x80808080), out=fields["data"])  # + 128
    else:  # codes are below 16, so shifted bytes don't mix
        fields["data"][...] = chunks[:, :, :, :4] | chunks[:, :, :, 4:] << np.uint32(4)
    fields["scales"][...] = _by_unit(scales, fields["scales"])
    if rows.mins is not None:
        fields["mins"][...] = _by_unit(rows.mins, fields["mins"])


def _unpack_quantized(format: NumberFormat, packed: Array, n: int, k: int) -> Quantized:
    fields = packed.view(_unit_type(format, k))
    data, blocks = fields["data"], format.blocks(k)
    if format.bits == 8:
        chunks = data ^ np.uint32(0x80808080)
    else:
        mask = np.uint32(0x0F0F0F0F)
        chunks = np.concatenate([data & mask, data >> np.uint32(4) & mask], axis=3)
    lanes = np.ascontiguousarray(chunks.transpose(0, 4, 1, 2, 3)).view(format.code_type)
    codes = lanes.reshape(packed.shape[0] * PANEL, -1)[:n, : blocks * BLOCK]
    scales = _by_row(fields["scales"])[:n]
    if format.per_row:
        return Quantized(format, codes, scales[:, 0], None, k)
    mins = _by_row(fields["mins"])[:n] if format.has_mins else None
    return Quantized(format, codes, scales[:, :blocks], mins, k)


def _pad_rows(rows: Quantized, count: int) -> Quantized:
    missing = count - rows.rows
    return concatenate([rows, rows.format.zero_rows(missing, rows.k)]) if missing else rows


def _unit_type(format: NumberFormat, k: int) -> np.dtype:
    """What a panel of an integer format consists of, as a record: a line of side data, then blocks.

    A line is 16 f32 scales of rows, or 16 f16 for each of two blocks, or scales and minima of one.
    `data` is [blocks, lines, 16] u32.
    """
    if format.per_row:
        blocks, fields = format.blocks(k), [("scales", "<f4", (1, PANEL))]
    elif format.has_mins:
        blocks, fields = 1, [("scales", "<f2", (1, PANEL)), ("mins", "<f2", (1, PANEL))]
    else:
        blocks, fields = 2, [("scales", "<f2", (2, PANEL))]
    return np.dtype([*fields, ("data", "<u4", (blocks, BLOCK * format.bits // 32, PANEL))])


def _by_unit(values: Array, like: Array) -> Array:
    """[rows, blocks] (or [rows]) as [panels, units, blocks per unit, 16]."""
    panels, units, per_unit, _ = like.shape
    return values.reshape(panels, PANEL, units, per_unit).transpose(0, 2, 3, 1)


def _by_row(values: Array) -> Array:
    """The inverse of `_by_unit`: [rows, blocks]."""
    return values.transpose(0, 3, 1, 2).reshape(values.shape[0] * PANEL, -1)
