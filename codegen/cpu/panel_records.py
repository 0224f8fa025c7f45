"""A panel of an integer format as a numpy record: what scales its codes, and the codes as lines.

In: `Quantized` rows, 16 a panel. Out: the fields of panels, and back. `packing.py` says where they
lie. A panel is an optional head of `scales` for all of K, then `units` along K with `per` blocks of
codes each and what scales these. All fields but `codes` are [.., count, 16 lanes].
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from ...ir.tiles import BLOCK, PANEL
from ...weights.formats.number_format import NumberFormat, Quantized, super_block_length
from .panel_codes import from_lines, to_lines

Array = np.ndarray

Field = tuple[str, str, tuple[int, int]]


@lru_cache(maxsize=256)
def panel_type(format: NumberFormat, k: int) -> np.dtype:
    """One panel of rows of `k` columns, a whole number of 64-byte lines."""
    blocks = -(-k // BLOCK)
    head: list[Field] = []
    per, side = 1, _SCALE_AND_MINIMUM
    if format.per_row:
        head, side = [("scales", "<f4", (1, PANEL))], []
    elif format.has_super_blocks and format.has_mins:
        per = super_block_length(blocks)
        factors = -(-(per + -(-per // 2)) // 4) * 4  # 16 bytes each, in lines of 64
        side = [*_SCALE_AND_MINIMUM, ("factors", "u1", (factors, PANEL))]
    elif format.has_super_blocks:
        per, side = 2, [("factors", "i1", (2 * BLOCK // format.block, PANEL))]
        head = [("scales", "<f2", (format.super_blocks(k) + format.super_blocks(k) % 2, PANEL))]
    elif not format.has_mins:
        per, side = 2, [("scales", "<f2", (2, PANEL))]
    unit = np.dtype([*side, ("codes", "<u4", (per, format.bits, PANEL))])
    return np.dtype([*head, ("units", unit, (-(-blocks // per),))])


_SCALE_AND_MINIMUM: list[Field] = [("scales", "<f2", (1, PANEL)), ("mins", "<f2", (1, PANEL))]


def fill_panels(rows: Quantized, panels: Array) -> None:
    """Write `rows`, 16 for each of `panels` of their `panel_type`."""
    fields = _fields(panels)
    codes = fields["codes"]
    fields["scales"][...] = _to_lanes(rows.scales, fields["scales"].shape)
    if rows.mins is not None:
        fields["mins"][...] = _to_lanes(rows.mins, fields["mins"].shape)
    if rows.factors is not None and rows.min_factors is not None:
        shape = (*codes.shape[:3], PANEL)
        f, g = (_to_lanes(v, shape) for v in (rows.factors, rows.min_factors))
        _join_factors(f, g, fields["factors"])
    elif rows.factors is not None:
        fields["factors"][...] = _to_lanes(rows.factors, fields["factors"].shape)
    zero = rows.format.zero_code * 0x01010101
    chunks = _to_lanes(rows.codes.view(np.uint32), (*codes.shape[:3], 8, PANEL), zero)
    codes[...] = to_lines(chunks, rows.format.bits)


def read_panels(format: NumberFormat, panels: Array, k: int) -> Quantized:
    """The rows that `panels` hold, padding rows included."""
    fields, blocks = _fields(panels), format.blocks(k)
    chunks = from_lines(fields["codes"], format.bits)
    codes = _from_lanes(chunks, format.padded(k) // 4).view(format.code_type)
    if format.per_row:
        return Quantized(format, codes, _from_lanes(fields["scales"], 1)[:, 0], None, k)
    count = format.super_blocks(k) if format.has_super_blocks else blocks
    scales = _from_lanes(fields["scales"], count)
    mins = _from_lanes(fields["mins"], count) if format.has_mins else None
    if not format.has_super_blocks:
        return Quantized(format, codes, scales, mins, k)
    factors, min_factors = fields["factors"], None
    if format.has_mins:
        factors, second = _split_factors(factors, fields["codes"].shape[2])
        min_factors = _from_lanes(second, blocks)
    return Quantized(format, codes, scales, mins, k, _from_lanes(factors, blocks), min_factors)


def _fields(panels: Array) -> dict[str, Array]:
    """Views of the fields of panels and of their units, by name."""
    units = panels["units"]
    found = {name: units[name] for name in units.dtype.names or ()}
    return found | {name: panels[name] for name in panels.dtype.names or () if name != "units"}


def _to_lanes(values: Array, shape: tuple[int, ...], fill: int = 0) -> Array:
    """[rows, count] as `shape` [panels, .., 16 lanes], with `fill` behind what there is."""
    panels, wanted = shape[0], prod(shape[1:-1])
    values = values.reshape(panels, PANEL, -1).transpose(0, 2, 1)
    if values.shape[1] < wanted:
        missing = ((0, 0), (0, wanted - values.shape[1]), (0, 0))
        values = np.pad(values, missing, constant_values=fill)
    return values.reshape(shape)


def _from_lanes(lanes: Array, count: int) -> Array:
    """The inverse: [rows, count]."""
    panels = lanes.shape[0]
    values = lanes.reshape(panels, -1, PANEL)[:, :count].transpose(0, 2, 1)
    return np.ascontiguousarray(values).reshape(panels * PANEL, count)


def _join_factors(f: Array, g: Array, out: Array) -> None:
    """6-bit numbers [panels, units, per, 16] as bytes: f and two bits of g, then the rest of g."""
    per = f.shape[2]
    halves = per + per % 2
    rest = np.zeros((*f.shape[:2], halves, PANEL), np.uint8)
    rest[:, :, :per] = g >> 2
    end = per + halves // 2
    out[:, :, :per] = f | (g & 3) << 6
    out[:, :, per:end] = rest[:, :, 0::2] | rest[:, :, 1::2] << 4
    out[:, :, end:] = 0


def _split_factors(packed: Array, per: int) -> tuple[Array, Array]:
    """The inverse of `_join_factors`."""
    first, rest = packed[:, :, :per], packed[:, :, per : per + -(-per // 2)]
    both = np.stack((rest & 15, rest >> 4), axis=3).reshape(*rest.shape[:2], -1, PANEL)
    return first & 63, first >> 6 | both[:, :, :per] << 2
