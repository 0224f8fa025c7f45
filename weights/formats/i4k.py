"""`i4k`: 4-bit codes, 6-bit scales and minima in super-blocks; the bits of GGUF's Q4_K."""

from __future__ import annotations

from ...ir.types import DType
from .scaled_blocks import ScaledBlocks


class I4K(ScaledBlocks):
    """Codes u8, 0..15; 4.5 bits a weight."""

    dtype = DType.I4K
    bits = 4
    holds = frozenset({"q4_k"})
