"""`f8c`: 8-bit floats (E4M3 of the OCP's OFP8), one float32 scale per output row (channel)."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .elements import E4M3_MAX, FLOAT8, to_e4m3
from .number_format import NumberFormat, Quantized
from .rounding import CHUNK, reciprocal

Array = np.ndarray


class F8C(NumberFormat):
    """Codes u8: the bits of an E4M3 number; value `scale[n] * number`. Our own quantizer gives the
    largest of a row ±448."""

    dtype = DType.F8C
    code_type = np.uint8
    bits = 8
    per_row = True
    float_codes = True
    holds = frozenset({"fp8_channel"})

    def quantize(self, weights: Array) -> Quantized:
        n, k = weights.shape
        scales = np.maximum(weights.max(axis=1, initial=0), -weights.min(axis=1, initial=0))
        scales /= np.float32(E4M3_MAX)
        codes = np.zeros((n, self.padded(k)), np.uint8)
        step = max(1, CHUNK // max(1, k))
        inverse = reciprocal(scales)[:, None]
        for start in range(0, n, step):
            rows = slice(start, start + step)
            codes[rows, :k] = to_e4m3(weights[rows] * inverse[rows])
        return Quantized(self, codes, scales, None, k)

    def numbers(self, codes: Array) -> Array:
        return FLOAT8["e4m3"][codes]
