"""`i5k`: 5-bit codes, 6-bit scales and minima in super-blocks; the bits of GGUF's Q5_K."""

from __future__ import annotations

from dataclasses import replace

from ...ir.types import DType
from .number_format import Quantized
from .scaled_blocks import ScaledBlocks


class I5K(ScaledBlocks):
    """Codes u8, 0..31; 5.5 bits a weight."""

    dtype = DType.I5K
    bits = 5
    holds = frozenset({"q5_k", "q4_k"})

    def hold(self, stored: Quantized) -> Quantized | None:
        return replace(stored, format=self)
