"""`i8b`: symmetric 8-bit codes, a float16 scale per block; the bits of GGUF's Q8_0."""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .block_format import BlockFormat
from .number_format import Quantized
from .rounding import half, reciprocal

Array = np.ndarray


class I8B(BlockFormat):
    """Codes i8, -128..127; value `scale * code`. Our own quantizer uses -127..127."""

    dtype = DType.I8B
    code_type = np.int8
    bits = 8
    holds = frozenset({"q8_0", "q5_0", "q4_0", "iq4_nl", "int8", "int5", "int4", "uint5", "uint4"})

    def quantize_blocks(self, x: Array) -> tuple[Array, Array, Array | None]:
        scale = half(np.maximum(x.max(axis=0), -x.min(axis=0)) / np.float32(127))
        q = x * reciprocal(scale)
        return np.rint(q, out=q).clip(-127, 127).astype(np.int8), scale, None

    def hold(self, stored: Quantized) -> Quantized | None:
        if stored.format is self:
            return stored
        codes = stored.codes.astype(np.int8)
        codes -= np.int8(stored.format.zero_code)
        if stored.mins is not None:  # a whole multiple of the scale, less its rounding
            steps = np.rint(stored.mins * reciprocal(stored.scales)).astype(np.int8)
            codes.reshape(stored.rows, -1, self.block)[...] += steps[..., None]
            codes[:, stored.k :] = 0
        return Quantized(self, codes, stored.scales, None, stored.k)
