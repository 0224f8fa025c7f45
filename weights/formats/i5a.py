"""`i5a`: 5-bit codes, a float16 scale and minimum per block; the bits of GGUF's Q5_1."""

from __future__ import annotations

from ...ir.types import DType
from .minimum_blocks import MinimumBlocks


class I5A(MinimumBlocks):
    """Codes u8, 0..31; value `scale * code + minimum`."""

    dtype = DType.I5A
    bits = 5
    holds = frozenset({"q5_1", "q5_0", "q4_1", "q4_0", "uint5", "affine5"})
