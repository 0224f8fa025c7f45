"""Blocks of GGUF tensors as our number formats have them, bit for bit.

In: rows of stored blocks, u8 [N, bytes]. Out: `Quantized` rows. Source of the layouts:
ggml-common.h and ggml-quants.c of the ggml project. All take `k`, the columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.types import DType
from ...weights.formats.number_format import Quantized
from ...weights.formats.registry import format_of

Array = np.ndarray


def _blocks(raw: Array, nbytes: int) -> Array:
    """[N, blocks, nbytes]"""
    return raw.reshape(len(raw), -1, nbytes)


def _rows(codes: Array) -> Array:
    """Codes [N, blocks, ..] as [N, K]."""
    return np.ascontiguousarray(codes).reshape(len(codes), -1)


def _halves(blocks: Array, at: int) -> Array:
    """The f16 number at byte `at` of each block: [N, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]


def _nibbles(packed: Array) -> Array:
    """u8 [.., n] -> [.., 2 n]: all low nibbles come before all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _bits(packed: Array) -> Array:
    """u8 [.., n] -> bits [.., 8 n], the lowest first."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _q4_0(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 18)
    codes = _rows(_nibbles(blocks[..., 2:]))
    return Quantized(format_of(DType.I4S), codes, _halves(blocks, 0), None, k)


def _q4_1(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 20)
    codes = _rows(_nibbles(blocks[..., 4:]))
    return Quantized(format_of(DType.I4A), codes, _halves(blocks, 0), _halves(blocks, 2), k)


def _q5_0(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 22)
    codes = _rows(_nibbles(blocks[..., 6:]) | _bits(blocks[..., 2:6]) << 4)
    return Quantized(format_of(DType.I5S), codes, _halves(blocks, 0), None, k)


def _q5_1(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 24)
    codes = _rows(_nibbles(blocks[..., 8:]) | _bits(blocks[..., 4:8]) << 4)
    return Quantized(format_of(DType.I5A), codes, _halves(blocks, 0), _halves(blocks, 2), k)


def _q8_0(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 34)
    codes = _rows(blocks[..., 2:]).view(np.int8)
    return Quantized(format_of(DType.I8B), codes, _halves(blocks, 0), None, k)


def _iq4_nl(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 18)
    codes = _IQ4_VALUES[_rows(_nibbles(blocks[..., 2:]))]
    return Quantized(format_of(DType.I8B), codes, _halves(blocks, 0), None, k)


_IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
"""What the codes of IQ4_NL stand for (kvalues_iq4nl)."""


def _mxfp4(raw: Array, k: int) -> Quantized:
    """As 5-bit codes: twice what E2M1 numbers are, whose power of two is in f32 here."""
    blocks = _blocks(raw, 17)
    codes = _MXFP4_CODES[_rows(_nibbles(blocks[..., 1:]))]
    scales = np.ldexp(np.float32(1), blocks[..., 0].astype(np.int32) - 128)
    return Quantized(format_of(DType.I5S), codes, scales, None, k)


_MXFP4_CODES = np.array(
    [16 + sign * q for sign in (1, -1) for q in (0, 1, 2, 3, 4, 6, 8, 12)], np.uint8
)
"""What the codes of MXFP4 stand for (kvalues_mxfp4), with the zero code of `i5s`."""


def _q4_k(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 144)
    codes = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return _scaled(DType.I4K, blocks, _rows(codes), k)


def _q5_k(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 176)
    low = _nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32))
    high = np.unpackbits(blocks[..., None, 16:48], axis=-2, count=8, bitorder="little")
    codes = low.reshape(*blocks.shape[:2], 8, 32) | high << 4
    return _scaled(DType.I5K, blocks, _rows(codes), k)


def _scaled(dtype: DType, blocks: Array, codes: Array, k: int) -> Quantized:
    """With the scale, the minimum and the 12 bytes of factors that Q4_K and Q5_K begin with."""
    low, middle, high = (blocks[..., at : at + 4] for at in (4, 8, 12))
    f = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
    g = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=-1)
    d, m = _halves(blocks, 0), -_halves(blocks, 2)
    return Quantized(format_of(dtype), codes, d, m, k, _rows(f), _rows(g))


def _q6_k(raw: Array, k: int) -> Quantized:
    blocks = _blocks(raw, 210)
    shape = *blocks.shape[:2], 2, 64
    low = _nibbles(blocks[..., :128].reshape(shape)).reshape(*shape[:3], 4, 32)
    pairs = blocks[..., 128:192].reshape(*shape[:3], 1, 32)
    high = pairs >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    factors = _rows(blocks[..., 192:208]).view(np.int8)
    codes = _rows(low | high << 4)
    return Quantized(format_of(DType.I6K), codes, _halves(blocks, 208), None, k, factors)


def _q3_k(raw: Array, k: int) -> Quantized:
    """As 6-bit codes: these are -4..3, and their factors are in 6 bits around 32."""
    blocks = _blocks(raw, 110)
    shape = *blocks.shape[:2], 2, 4, 32
    pairs = blocks[..., 32:96].reshape(*shape[:3], 1, 32)
    low = pairs >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    high = np.unpackbits(blocks[..., None, :32], axis=-2, bitorder="little").reshape(shape)
    codes = _rows(low + (high << 2) + np.uint8(32 - 4))
    nibbles = _nibbles(blocks[..., 96:104])
    pairs = blocks[..., None, 104:108] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    factors = (nibbles | pairs.reshape(nibbles.shape) << 4).view(np.int8) - np.int8(32)
    return Quantized(format_of(DType.I6K), codes, _halves(blocks, 108), None, k, _rows(factors))


UNPACK: dict[str, Callable[[Array, int], Quantized]] = {
    "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0,
    "q3_k": _q3_k, "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k, "iq4_nl": _iq4_nl, "mxfp4": _mxfp4,
}  # fmt: skip
"""By the name of a GGUF type in small letters."""
