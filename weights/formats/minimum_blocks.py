"""Blocks with a minimum: codes count up from it; scale and minimum are found by a short search.

For some parts of a block's range: round, then fit scale and minimum to the codes by least squares,
and keep what has the least squared error.
"""

from __future__ import annotations

import numpy as np

from .block_format import BlockFormat
from .number_format import Quantized
from .rounding import half, reciprocal, round_codes

Array = np.ndarray

# Scales that are tried: the part of the block's range that the codes span. More of them lower the
# error by less than 1 %.
_SPANS = (1.0, 0.92, 0.84)


class MinimumBlocks(BlockFormat):
    """Codes u8 of `bits`; value `scale * code + minimum`."""

    code_type = np.uint8
    has_mins = True

    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        top = (1 << self.bits) - 1
        scale, offset = _lines(x, top)
        d, m = half(scale), half(offset)
        inverse, q = reciprocal(d), np.empty_like(x)
        round_codes(x, inverse, 0, top, q, shift=m.astype(np.float32) * inverse)
        return q.astype(np.uint8), d, m

    def hold(self, stored: Quantized) -> Quantized | None:
        if stored.format.has_mins:
            return Quantized(self, stored.codes, stored.scales, stored.mins, stored.k)
        with np.errstate(over="ignore"):  # times a power of two: exact
            mins = stored.scales * np.float16(-stored.format.zero_code)
        changed = Quantized(self, stored.codes, stored.scales, mins, stored.k)
        return changed if changed.is_finite() else None


def _lines(x: Array, top: int) -> tuple[Array, Array]:
    """Scales and minima f32 [B] of columns of `x` f32 [block, B] for codes `0 .. top`."""
    high, low = x.max(axis=0), x.min(axis=0)
    mean = x.mean(axis=0)
    centred = x - mean
    best = np.full_like(low, -1.0)
    scale, offset, q = np.zeros_like(low), np.zeros_like(low), np.empty_like(x)
    for span in _SPANS:
        trim = (high - low) * np.float32((1 - span) / 2)
        inverse = reciprocal((high - low) * np.float32(span / top))
        round_codes(x, inverse, 0, top, q, shift=(low + trim) * inverse)
        # Least squares for x = d*q + m: d = cov(x, q) / var(q), m = mean(x) - d * mean(q).
        q_mean = q.mean(axis=0)
        cov = np.einsum("kb,kb->b", centred, q)
        var = np.einsum("kb,kb->b", q, q) - len(q) * q_mean * q_mean
        fitted = cov / np.maximum(var, np.float32(0.5))
        gain = fitted * cov
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]
        offset[better] = (mean - fitted * q_mean)[better]
    return scale, offset
