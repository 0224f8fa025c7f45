"""`i4s`: symmetric 4-bit codes, a float16 scale per block; the bits of GGUF's Q4_0."""

from __future__ import annotations

from ...ir.types import DType
from .symmetric_blocks import SymmetricBlocks


class I4S(SymmetricBlocks):
    """Codes u8, 0..15; value `scale * (code - 8)`."""

    dtype = DType.I4S
    bits = 4
    zero_code = 8
    holds = frozenset({"q4_0", "int4"})
