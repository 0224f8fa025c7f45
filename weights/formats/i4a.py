"""`i4a`: 4-bit codes, a float16 scale and minimum per block; the bits of GGUF's Q4_1."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .block_format import BlockFormat
from .number_format import Quantized
from .rounding import half, reciprocal, round_codes

Array = np.ndarray

# Scales that are tried: the part of the block's range that codes 0..15 span. More of them lower the
# error by less than 1 %.
_SPANS = (1.0, 0.92, 0.84)


class I4A(BlockFormat):
    """Codes u8, 0..15; value `scale * code + minimum`, found by the same search as in `i4s`."""

    dtype = DType.I4A
    code_type = np.uint8
    bits = 4
    has_mins = True
    holds = frozenset({"q4_1", "q4_0", "int4", "uint4", "affine4"})

    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        high, low = x.max(axis=0), x.min(axis=0)
        mean = x.mean(axis=0)
        centred = x - mean
        best = np.full_like(low, -1.0)
        scale, offset, q = np.zeros_like(low), np.zeros_like(low), np.empty_like(x)
        for span in _SPANS:
            trim = (high - low) * np.float32((1 - span) / 2)
            inverse = reciprocal((high - low) * np.float32(span / 15))
            round_codes(x, inverse, 0, 15, q, shift=(low + trim) * inverse)
            # Least squares for x = d*q + m: d = cov(x, q) / var(q), m = mean(x) - d * mean(q).
            q_mean = q.mean(axis=0)
            cov = np.einsum("kb,kb->b", centred, q)
            var = np.einsum("kb,kb->b", q, q) - len(q) * q_mean * q_mean
            fitted = cov / np.maximum(var, np.float32(0.5))
            gain = fitted * cov
            better = gain > best
            best[better], scale[better] = gain[better], fitted[better]
            offset[better] = (mean - fitted * q_mean)[better]
        d, m = half(scale), half(offset)
        inverse = reciprocal(d)
        round_codes(x, inverse, 0, 15, q, shift=m.astype(np.float32) * inverse)
        return q.astype(np.uint8), d, m

    def hold(self, stored: Quantized) -> Quantized | None:
        if stored.format is self:
            return stored
        with np.errstate(over="ignore"):  # times a power of two: exact
            mins = stored.scales * np.float16(-stored.format.zero_code)
        changed = Quantized(self, stored.codes, stored.scales, mins, stored.k)
        return changed if changed.is_finite() else None
