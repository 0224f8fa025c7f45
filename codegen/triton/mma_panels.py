"""Weights with scales per block as GPUs read them: panels of 16 rows in mma's own order.

In: `Quantized` rows; out: the bytes of each section, and back. A panel is 16 rows (N is padded per
matrix with rows that mean zero), cut into blocks of 32 columns (K is padded with the zero code). A
panel's block is what one warp gives to `mma.m16n8k16` twice: lane `4 * g + t` has rows g and g + 8,
columns `16 * half + 4 * t + i`, i = 0 .. 3. (Which four columns a lane has doesn't matter to a
product where both operands agree; these are what Triton takes if an operand is made from bytes.)
So what a tile reads are runs of 256 bytes (512 for 8-bit codes), and no code moves between lanes.

Sections, in this order, those that a format has; `blocks` is K / 32 rounded up:

| section     | formats            | what                                                          |
|-------------|--------------------|---------------------------------------------------------------|
| codes       | `i8b`              | i8 [panels, blocks, 32 lanes, half, row / 8, 4]               |
|             | others             | u8 [panels, blocks, 32 lanes, row / 8, 4]: the low four bits, |
|             |                    | of half 0 in the low and of half 1 in the high half of a byte |
| high        | `i5s` `i5a` `i5k`  | u8 [panels, blocks, 32 lanes, 2]: bit 4 of a code is in byte  |
|             |                    | `i % 2` at `4 * (i / 2) + 2 * half + row / 8`                 |
|             | `i6k`              | u8 [panels, blocks, 32 lanes, 4]: bits 4 and 5 are in byte i  |
|             |                    | from `4 * (row / 8) + 2 * half` on                            |
| scales      | without `k`        | f16 [panels, blocks, 8, row / 8]                              |
|             | `i4k` `i5k` `i6k`  | f16 [panels, super-blocks, 8, row / 8]                        |
| minima      | with `a`           | f16, as scales                                                |
|             | `i4k` `i5k`        | f16, as scales                                                |
| factors     | `i4k` `i5k`        | u8 [panels, blocks, 8, row / 8, 2]: factor, minimum's factor  |
|             | `i6k`              | i8 [panels, blocks, 8, row / 8, half]                         |

Numbers of rows g and g + 8, which one lane needs, are a word of 4 bytes: the least that GPUs load
asynchronously.

So memory read is that of the format: `i4k` takes 4.63 bits a weight (4 of the code, 16 of the
factors for 32 columns, 32 of scale and minimum for 256), where scales and minima of all blocks as
f32 would take 6. Matrices of experts are behind one another: E times the panels in each section.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...ir.tiles import BLOCK, PANEL
from ...weights.formats.number_format import NumberFormat, Quantized, concatenate

Array = np.ndarray
Section = tuple[np.dtype[np.generic], tuple[int, ...]]

_LANES, _GROUPS, _THREADS = 32, 8, 4
_HALVES = 2
# The four codes of a lane that are columns behind one another move as one word.
_WORD = np.uint32
_LOW = _WORD(0x0F0F0F0F)


def panels_of(n: int) -> int:
    """Panels of a matrix of `n` rows."""
    return -(-n // PANEL)


def sections(format: NumberFormat, experts: int, n: int, k: int) -> tuple[int, ...]:
    """Bytes of each section of matrices [experts, n, k]."""
    panels = experts * panels_of(n)
    return tuple(panels * prod(s) * t.itemsize for t, s in section_types(format, k).values())


def section_types(format: NumberFormat, k: int) -> dict[str, Section]:
    """Element type and shape, for one panel, of each section of a format."""
    blocks = -(-k // BLOCK)
    halves = (_HALVES,) if format.bits == 8 else ()
    per = format.super_blocks(k) if format.has_super_blocks else blocks
    types: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "codes": (_WORD, (blocks, _LANES, *halves, 2))
    }
    if format.bits in (5, 6):
        types["high"] = (np.uint8, (blocks, _LANES, _high_bytes(format)))
    types["scales"] = (np.float16, (per, _GROUPS, 2, 1))
    if format.has_mins:
        types["mins"] = types["scales"]
    if format.has_super_blocks:
        types["factors"] = (np.uint8 if format.has_mins else np.int8, (blocks, _GROUPS, 2, 2))
    return {name: (np.dtype(type), shape) for name, (type, shape) in types.items()}


def packed(rows: Quantized) -> list[Array]:
    """Arrays of all sections, panel by panel."""
    missing = -rows.rows % PANEL
    if missing:
        rows = concatenate([rows, rows.format.zero_rows(missing, rows.k)])
    arrays = [*_packed_codes(rows), _by_panel(rows.scales[..., None])]
    if rows.mins is not None:
        arrays.append(_by_panel(rows.mins[..., None]))
    if rows.factors is not None:
        arrays.append(_by_panel(_factor_pairs(rows.factors, rows.min_factors)))
    return arrays


def unpacked(format: NumberFormat, k: int, parts: Sequence[Array]) -> Quantized:
    """All rows, those that pad matrices included, of the bytes (u8) of each section."""
    types = section_types(format, k)
    arrays = {
        name: part.view(type).reshape(-1, *shape)
        for (name, (type, shape)), part in zip(types.items(), parts, strict=True)
    }
    codes = _unpacked_codes(format, arrays["codes"], arrays.get("high"))
    codes = np.ascontiguousarray(codes[:, : format.padded(k)]).view(format.code_type)
    scales = _by_row(arrays["scales"])
    mins = _by_row(arrays["mins"]) if format.has_mins else None
    factors = _by_row(arrays["factors"]) if format.has_super_blocks else None
    if factors is None:
        return Quantized(format, codes, scales, mins, k)
    if format.has_mins:
        pairs = factors.reshape(len(codes), -1, 2).transpose(2, 0, 1)
        return Quantized(format, codes, scales, mins, k, *np.ascontiguousarray(pairs))
    factors = np.ascontiguousarray(factors[:, : format.blocks(k)])
    return Quantized(format, codes, scales, mins, k, factors)


def _packed_codes(rows: Quantized) -> list[Array]:
    format, codes = rows.format, rows.codes.view(np.uint8)
    missing = -codes.shape[1] % BLOCK
    if missing:
        codes = np.pad(codes, ((0, 0), (0, missing)), constant_values=format.zero_code)
    # [panels, row / 8, g, blocks, half, t] words of four codes
    words = np.ascontiguousarray(codes).view(_WORD)
    words = words.reshape(-1, 2, _GROUPS, codes.shape[1] // BLOCK, _HALVES, _THREADS)
    if format.bits == 8:
        return [words.transpose(0, 3, 2, 5, 4, 1)]
    first, second = (words[:, :, :, :, half].transpose(0, 3, 2, 4, 1) for half in range(_HALVES))
    low = (first & _LOW) | (second & _LOW) << _WORD(4)
    if format.bits == 4:
        return [low]
    lanes = np.ascontiguousarray(np.stack((first, second), axis=4))
    bits = (lanes >> _WORD(4) & _LOW).view(np.uint8).reshape(*lanes.shape, -1, _high_bytes(format))
    return [low, np.bitwise_or.reduce(bits << _high_shifts(format), axis=(4, 5, 6))]


def _unpacked_codes(format: NumberFormat, words: Array, high: Array | None) -> Array:
    """Codes u8 [rows, blocks * 32]; `words` [panels, blocks, lanes, .., 2]."""
    panels, blocks = words.shape[:2]
    if format.bits < 8:
        words = np.stack((words & _LOW, words >> _WORD(4) & _LOW), axis=-2)
    codes = words.reshape(panels, blocks, _GROUPS, _THREADS, _HALVES, 2)
    if high is not None:
        mask = np.uint8((1 << (format.bits - 4)) - 1)
        bits = (high[:, :, :, None, None, None] >> _high_shifts(format) & mask) << np.uint8(4)
        codes = codes | np.ascontiguousarray(bits).reshape(-1).view(_WORD).reshape(codes.shape)
    by_row = np.ascontiguousarray(codes.transpose(0, 5, 2, 1, 4, 3))
    return by_row.view(np.uint8).reshape(panels * PANEL, blocks * BLOCK)


def _high_bytes(format: NumberFormat) -> int:
    """Bytes of a lane's high bits, of 16 codes."""
    return 2 * (format.bits - 4)


def _high_shifts(format: NumberFormat) -> Array:
    """Where in its byte the high bits of a code are: [half, row / 8, i / bytes, 1]."""
    half, row = np.arange(_HALVES)[:, None, None, None], np.arange(2)[:, None, None]
    if format.bits == 5:
        return (4 * np.arange(2)[:, None] + 2 * half + row).astype(np.uint8)
    return (4 * row + 2 * half).astype(np.uint8)


def _factor_pairs(factors: Array, min_factors: Array | None) -> Array:
    """[rows, blocks of 32 columns, 2]: factor and minimum's, or those of each 16 columns."""
    if min_factors is not None:
        return np.stack((factors, min_factors), axis=-1)
    return np.pad(factors, ((0, 0), (0, factors.shape[1] % 2))).reshape(len(factors), -1, 2)


def _by_panel(values: Array) -> Array:
    """[rows, columns, count] as [panels, columns, 8, row / 8, count]."""
    rows = values.reshape(-1, 2, _GROUPS, *values.shape[1:])
    return rows.transpose(0, 3, 2, 1, 4)


def _by_row(panels: Array) -> Array:
    """The inverse of `_by_panel`, as [rows, columns * count]."""
    rows = np.ascontiguousarray(panels.transpose(0, 3, 2, 1, 4))
    return rows.reshape(-1, rows.shape[3] * rows.shape[4])
