"""`i6k`: 6-bit codes, 8-bit scales of 16 columns in super-blocks; the bits of GGUF's Q6_K."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .number_format import Quantized
from .rounding import half, reciprocal, round_codes
from .super_blocks import SuperBlockFormat, by_super_block
from .symmetric_blocks import fitted_scales

Array = np.ndarray


class I6K(SuperBlockFormat):
    """Codes u8, 0..63; value `scale * factor * (code - 32)`, factors i8; 6.56 bits a weight."""

    dtype = DType.I6K
    bits = 6
    zero_code = 32
    block = 16
    holds = frozenset({"q6_k", "q3_k"})

    def quantize_blocks(self, x: Array) -> Quantized:
        length, blocks, count = x.shape
        scale = fitted_scales(x.reshape(length, -1), self.zero_code).reshape(blocks, count)
        high, low = scale.max(axis=0), scale.min(axis=0)
        extreme = np.where(high > -low, high, low)
        d = half(extreme / np.float32(-128))
        factors = np.rint(scale * reciprocal(d)).clip(-128, 127)
        q = np.empty_like(x)
        inverse = reciprocal(d.astype(np.float32) * factors)
        round_codes(x, inverse, -self.zero_code, self.zero_code - 1, q)
        q += np.float32(self.zero_code)
        codes = by_super_block(q).astype(np.uint8)
        return Quantized(self, codes, d, None, 0, by_super_block(factors).astype(np.int8))

    def zero_rows(self, rows: int, k: int) -> Quantized:
        zeros = super().zero_rows(rows, k)
        assert zeros.factors is not None
        return Quantized(self, zeros.codes, zeros.scales, None, k, zeros.factors.view(np.int8))
