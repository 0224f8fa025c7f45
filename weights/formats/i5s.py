"""`i5s`: symmetric 5-bit codes, a float16 scale per block; the bits of GGUF's Q5_0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ir.types import DType
from .number_format import Quantized
from .symmetric_blocks import SymmetricBlocks


class I5S(SymmetricBlocks):
    """Codes u8, 0..31; value `scale * (code - 16)`."""

    dtype = DType.I5S
    bits = 5
    zero_code = 16
    holds = frozenset({"q5_0", "q4_0", "mxfp4", "int5"})

    def hold(self, stored: Quantized) -> Quantized | None:
        if stored.format is self:  # scales of MXFP4 are powers of two beyond f16's
            with np.errstate(over="ignore", under="ignore"):
                scales = stored.scales.astype(np.float16)
            exact = (scales.astype(np.float32) == stored.scales).all()
            return replace(stored, scales=scales) if exact else None
        codes = stored.codes + np.uint8(self.zero_code - stored.format.zero_code)
        return Quantized(self, codes, stored.scales, None, stored.k)
