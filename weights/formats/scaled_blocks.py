"""Super-blocks with 6-bit scales and minima: what Q4_K and Q5_K of GGUF are, and `i4k` and `i5k`.

A line is fitted to each block, then its scale and minimum are rounded to whole numbers of those of
the super-block. Going round a few times (codes for these numbers, numbers for these codes) brings
back what the 6 bits cost: the error is that of blocks with a scale and minimum in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .number_format import Quantized
from .rounding import half, reciprocal, round_codes
from .super_blocks import SuperBlockFormat, by_super_block

Array = np.ndarray

_TOP_FACTOR = 63  # 6 bits
_SPANS = (1.0, 0.93, 0.86, 0.79)  # parts of a block's range that are tried as the codes' own
_ROUNDS = 2


class ScaledBlocks(SuperBlockFormat):
    """Codes u8 of `bits`; value `scale * factor * code + minimum * min_factor`, minimum <= 0."""

    has_mins = True

    def quantize_blocks(self, x: Array) -> Quantized:
        top = (1 << self.bits) - 1
        half(np.abs(x) / np.float32(top * _TOP_FACTOR))  # refused before its squares overflow
        weighted = _Weighted(x)
        scale, offset = _lines(weighted, top)
        d, m = _super_block(scale), _super_block(offset)
        f, g = _factors(scale, d), _factors(offset, m)
        for _ in range(_ROUNDS):
            sums = weighted.with_codes(_codes(x, d * f, m * g, top))
            f = _factors((sums.xq - m * g * sums.q) / _above_zero(sums.qq), d)
            g = _factors((sums.x - d * f * sums.q) / _above_zero(sums.count), m)
            d, m = _fitted(sums, f, g, m)
        q = _codes(x, d * f, m * g, top)
        codes, f, g = (by_super_block(v).astype(np.uint8) for v in (q, f, g))
        return Quantized(self, codes, half(d), half(m), 0, f, g)


class _Weighted:
    """Elements x [block, blocks, B] with how much the error of each counts.

    Large ones count more, as in llama.cpp's K-quants: KL falls with it, though the error rises.
    """

    def __init__(self, x: Array) -> None:
        self.x = x
        self._weight = np.abs(x)
        self._weight += np.sqrt(np.einsum("kgb,kgb->gb", x, x) / np.float32(len(x)))
        self._product = self._weight * x
        self.count, self.sum = self._weight.sum(axis=0), self._product.sum(axis=0)

    def with_codes(self, q: Array) -> _Sums:
        weighted = self._weight * q
        xq, qq = np.einsum("kgb,kgb->gb", self._product, q), np.einsum("kgb,kgb->gb", weighted, q)
        return _Sums(self.count, self.sum, weighted.sum(axis=0), xq, qq)


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over each block of elements x and codes q, [blocks, B]; `count` of 1."""

    count: Array
    x: Array
    q: Array
    xq: Array
    qq: Array


def _lines(weighted: _Weighted, top: int) -> tuple[Array, Array]:
    """Scale and minimum (<= 0) [blocks, B] that fit each block best for codes `0 .. top`."""
    x, count = weighted.x, _above_zero(weighted.count)
    low = np.minimum(x.min(axis=0), 0)
    width = np.maximum(x.max(axis=0), 0) - low
    best = np.full_like(low, np.inf)
    scale, offset, q = np.zeros_like(low), np.zeros_like(low), np.empty_like(x)
    for span in _SPANS:
        trim = np.where(low < 0, width * np.float32((1 - span) / 2), 0)
        inverse = reciprocal(width * np.float32(span / top))
        round_codes(x, inverse, 0, top, q, shift=(low + trim) * inverse)
        s = weighted.with_codes(q)
        # Least squares for x = d*q + m; through the origin where m would be above it, and where the
        # codes are all the same.
        variance = s.qq - s.q * s.q / count
        sloped = variance > np.float32(1e-4) * s.qq
        d = (s.xq - s.x * s.q / count) / np.where(sloped, variance, 1)
        m = (s.x - d * s.q) / count
        through = ~sloped & (s.qq > 0) | (m > 0)
        d = np.where(through, s.xq / _above_zero(s.qq), d)
        m = np.where(through, 0, m)
        error = d * (d * s.qq - 2 * s.xq) + m * (2 * d * s.q - 2 * s.x + s.count * m)
        better = error < best
        best[better], scale[better], offset[better] = error[better], d[better], m[better]
    return scale, offset


def _super_block(values: Array) -> Array:
    """What `values` [blocks, B] are whole numbers of up to 63: [B], as float16 has it."""
    high, low = values.max(axis=0), values.min(axis=0)
    extreme = np.where(high > -low, high, low)
    return half(extreme / np.float32(_TOP_FACTOR)).astype(np.float32)


def _factors(values: Array, of: Array) -> Array:
    return np.rint(values * reciprocal(of)).clip(0, _TOP_FACTOR)


def _codes(x: Array, scale: Array, offset: Array, top: int) -> Array:
    inverse, q = reciprocal(scale), np.empty_like(x)
    round_codes(x, inverse, 0, top, q, shift=offset * inverse)
    return q


def _fitted(sums: _Sums, f: Array, g: Array, m: Array) -> tuple[Array, Array]:
    """Scale and minimum [B] of super-blocks with the least squared error for these codes.

    Least squares for x = d * (f q) + m * g; `m` stays where the codes don't determine it.
    """
    aa, bb = (f * f * sums.qq).sum(axis=0), (g * g * sums.count).sum(axis=0)
    ab = (f * g * sums.q).sum(axis=0)
    ax, bx = (f * sums.xq).sum(axis=0), (g * sums.x).sum(axis=0)
    determinant = aa * bb - ab * ab
    sound = determinant > np.float32(1e-3) * aa * bb
    divisor = np.where(sound, determinant, 1)
    d = np.where(sound, (ax * bb - bx * ab) / divisor, (ax - m * ab) / _above_zero(aa))
    m = np.where(sound, (bx * aa - ax * ab) / divisor, m)
    return half(d).astype(np.float32), half(np.minimum(m, 0)).astype(np.float32)


def _above_zero(values: Array) -> Array:
    return np.maximum(values, np.float32(1e-30))
