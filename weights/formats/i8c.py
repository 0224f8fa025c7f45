"""`i8c`: symmetric 8-bit codes, one float32 scale per output row (channel)."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .number_format import NumberFormat, Quantized
from .rounding import CHUNK, reciprocal


class I8C(NumberFormat):
    """Codes i8, -128..127; value `scale[n] * code`. Our own quantizer gives the largest of a row
    ±127; checkpoints may hold -128."""

    dtype = DType.I8C
    code_type = np.int8
    bits = 8
    per_row = True
    holds = frozenset({"int8_channel"})

    def quantize(self, weights: np.ndarray) -> Quantized:
        n, k = weights.shape
        scales = np.maximum(weights.max(axis=1, initial=0), -weights.min(axis=1, initial=0))
        scales /= np.float32(127)
        codes = np.zeros((n, self.padded(k)), np.int8)
        step = max(1, CHUNK // max(1, k))
        inverse = reciprocal(scales)[:, None]
        for start in range(0, n, step):
            rows = slice(start, start + step)
            scaled = weights[rows] * inverse[rows]
            codes[rows, :k] = np.rint(scaled, out=scaled).clip(-127, 127)
        return Quantized(self, codes, scales, None, k)
