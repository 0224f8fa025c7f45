"""`i4a`: 4-bit codes, a float16 scale and minimum per block; the bits of GGUF's Q4_1."""

from __future__ import annotations

from ...ir.types import DType
from .minimum_blocks import MinimumBlocks


class I4A(MinimumBlocks):
    """Codes u8, 0..15; value `scale * code + minimum`."""

    dtype = DType.I4A
    bits = 4
    holds = frozenset({"q4_1", "q4_0", "int4", "uint4", "affine4"})
