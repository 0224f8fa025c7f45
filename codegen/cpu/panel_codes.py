"""Codes of a panel as lines of 64 bytes, and back.

A *chunk* c (0..7) of a block of 32 k is 16 rows x 4 k: byte 4r+i belongs to lane r and k = 4c + i
of the block, the shape that 4-way integer dot products want. As arrays chunks are u32 [.., 8, 16],
a lane's four codes in one number; lines are u32 [.., lines, 16].

8-bit codes (8 lines)
    Line c is chunk c; a byte is the code + 128.
4-bit codes (4 lines)
    Line c holds chunk c in the low and chunk c + 4 in the high nibbles.
5-bit codes (5 lines)
    The low four bits as 4-bit codes, then a line with the fifth: bit c of its bytes is chunk c's.
6-bit codes (6 lines)
    The low four bits as 4-bit codes, then two lines with the others: bits 2c and 2c + 1 of the
    first one's bytes are chunk c's, of the second one's chunk c + 4's.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_LOW = np.uint32(0x0F0F0F0F)
_SIGN = np.uint32(0x80808080)


def to_lines(chunks: Array, bits: int) -> Array:
    """Chunks u32 [.., 8, 16] of codes (i8 bits where `bits` is 8) as lines [.., bits, 16]."""
    if bits == 8:
        return chunks ^ _SIGN
    lines = np.empty((*chunks.shape[:-2], bits, chunks.shape[-1]), np.uint32)
    low = chunks & _LOW if bits > 4 else chunks
    np.bitwise_or(low[..., :4, :], low[..., 4:, :] << np.uint32(4), out=lines[..., :4, :])
    for line, shifts in enumerate(_high_bits(bits), 4):
        lines[..., line, :] = 0
        for chunk, shift in shifts.items():
            lines[..., line, :] |= chunks[..., chunk, :] >> np.uint32(4) << np.uint32(shift) & (
                _mask(bits) << np.uint32(shift)
            )
    return lines


def from_lines(lines: Array, bits: int) -> Array:
    """The inverse of `to_lines`."""
    if bits == 8:
        return lines ^ _SIGN
    low = lines[..., :4, :]
    chunks = np.concatenate([low & _LOW, low >> np.uint32(4) & _LOW], axis=-2)
    for line, shifts in enumerate(_high_bits(bits), 4):
        for chunk, shift in shifts.items():
            high = lines[..., line, :] >> np.uint32(shift) & _mask(bits)
            chunks[..., chunk, :] |= high << np.uint32(4)
    return chunks


def _high_bits(bits: int) -> list[dict[int, int]]:
    """Of each line behind the nibbles: at which bit of a byte the chunks' high bits begin."""
    width = bits - 4
    chunks = range(8)
    per_line = 8 // width if width else 8
    return [
        {c: c % per_line * width for c in chunks[start : start + per_line]}
        for start in range(0, 8 if width else 0, per_line)
    ]


def _mask(bits: int) -> np.uint32:
    return np.uint32(0x01010101 * ((1 << (bits - 4)) - 1))
