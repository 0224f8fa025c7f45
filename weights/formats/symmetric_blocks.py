"""Symmetric blocks: codes on both sides of zero, a float16 scale, found by a short search.

Codes reach one further below zero than above, so the element of largest magnitude takes that side
and gives the scale its sign, as in GGUF's Q4_0. For some scales near the one that spans the block:
round, then fit the scale to the codes by least squares, and keep what has the least squared error.
"""

from __future__ import annotations

import numpy as np

from .block_format import BlockFormat
from .rounding import half, reciprocal, round_codes

Array = np.ndarray

# Scales that are tried: by how much the largest element's code lies beyond the last one. More of
# them lower the error by less than 1 %.
_BEYOND = (0.0, 0.6, -0.6)


class SymmetricBlocks(BlockFormat):
    """Codes u8 of `bits`; value `scale * (code - zero_code)`, the zero code in the middle."""

    code_type = np.uint8

    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        scale = half(fitted_scales(x, self.zero_code))
        q = np.empty_like(x)
        round_codes(x, reciprocal(scale), -self.zero_code, self.zero_code - 1, q)
        q += np.float32(self.zero_code)
        return q.astype(np.uint8), scale, None


def fitted_scales(x: Array, lowest: int) -> Array:
    """Scales f32 [B] of columns of `x` f32 [block, B] for codes `-lowest .. lowest - 1`."""
    high, low = x.max(axis=0), x.min(axis=0)
    extreme = np.where(high > -low, high, low)
    inverse = reciprocal(extreme)
    best, scale, q = np.full_like(extreme, -1.0), np.zeros_like(extreme), np.empty_like(x)
    for beyond in _BEYOND:
        round_codes(x, inverse * np.float32(-lowest - beyond), -lowest, lowest - 1, q)
        xq, qq = np.einsum("kb,kb->b", x, q), np.einsum("kb,kb->b", q, q)
        fitted = xq / np.maximum(qq, 1.0)
        gain = fitted * xq  # by how much the squared error is below that of all zeros
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]
    return scale
