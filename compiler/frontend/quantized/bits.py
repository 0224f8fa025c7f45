"""Codes of 1 to 8 bits out of 32-bit words: a stream of bits, the lowest bit of a word first.

GPTQ, compressed-tensors and MLX pack like this: element i has the bits i * bits … of its row's
stream, across the words' ends where the bits don't divide 32.
"""

from __future__ import annotations

import numpy as np

from .weight import Rows

Array = np.ndarray


def words_for(count: int, bits: int) -> int:
    """32-bit words that hold `count` codes."""
    return -(-count * bits // 32)


def unpack(words: Array, bits: int, count: int) -> Array:
    """The first `count` codes u8 of each row of `words` [N, W] (any 32-bit integer type)."""
    data = np.ascontiguousarray(words).view("<u4").view(np.uint8)
    if bits in (2, 4, 8):
        per_byte = 8 // bits
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits % 8)
        codes = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(len(data), -1)[:, :count]
    stream = np.unpackbits(data, axis=1, bitorder="little", count=count * bits)
    return np.packbits(stream.reshape(len(data), count, bits), axis=2, bitorder="little")[..., 0]


def packed_along_rows(read: Rows, bits: int) -> Rows:
    """Rows of [N, G] codes that are packed along N: `read` gives rows of words [words of N, G].

    32 codes are a whole number of words, so those that hold the rows asked for begin at one.
    """

    def codes(rows: Array) -> Array:
        start = int(rows.min()) // 32 * 32
        stop = int(rows.max()) + 1
        words = read(np.arange(start // 32 * bits, words_for(stop, bits)))
        return unpack(words.T, bits, stop - start).T[rows - start]

    return codes
