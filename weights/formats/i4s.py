"""`i4s`: symmetric 4-bit codes, a float16 scale per block; the bits of GGUF's Q4_0."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .block_format import BlockFormat
from .rounding import half, reciprocal, round_codes

Array = np.ndarray

# Scales that are tried: the code (in magnitude) that the largest element gets. More of them lower
# the error by less than 1 %.
_EXTREMES = (8.0, 8.6, 7.4)


class I4S(BlockFormat):
    """Codes u8, 0..15; value `scale * (code - 8)`.

    Codes reach from -8 to 7, so the element of largest magnitude takes the side of -8 and gives
    the scale its sign, as in GGUF's Q4_0. The scale is found by a short search: for some scales
    near the one that spans the block, round, then fit the scale to the codes by least squares, and
    keep what has the least squared error.
    """

    dtype = DType.I4S
    code_type = np.uint8
    bits = 4
    zero_code = 8
    holds = frozenset({"q4_0", "int4"})

    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        high, low = x.max(axis=0), x.min(axis=0)
        extreme = np.where(high > -low, high, low)
        inverse = reciprocal(extreme)
        best, scale, q = np.full_like(extreme, -1.0), np.zeros_like(extreme), np.empty_like(x)
        for code in _EXTREMES:
            round_codes(x, inverse * np.float32(-code), -8, 7, q)
            xq, qq = np.einsum("kb,kb->b", x, q), np.einsum("kb,kb->b", q, q)
            fitted = xq / np.maximum(qq, 1.0)
            gain = fitted * xq  # by how much the squared error is below that of all zeros
            better = gain > best
            best[better], scale[better] = gain[better], fitted[better]
        rounded = half(scale)
        round_codes(x, reciprocal(rounded), -8, 7, q)
        q += 8.0
        return q.astype(np.uint8), rounded, None
