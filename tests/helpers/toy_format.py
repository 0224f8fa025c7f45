"""A number format that the product doesn't have, to see what a new one has to touch.

`i6t`: symmetric 6-bit codes 0..63 around 32, a float16 scale per block of 16. `registered` stands
for the two rows that a real format adds: one in `DType`, one in `FORMATS`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from llmc.ir.types import DType
from llmc.weights.formats.block_format import BlockFormat
from llmc.weights.formats.registry import FORMATS
from llmc.weights.formats.rounding import half, reciprocal


def _member(name: str) -> DType:
    member = str.__new__(DType, name)
    member._name_, member._value_ = name.upper(), name
    return member


class I6T(BlockFormat):
    """Value `scale * (code - 32)`; the largest of a block gets -31 or 31."""

    dtype = _member("i6t")
    code_type = np.uint8
    bits = 8
    zero_code = 32
    block = 16

    def quantize_blocks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        scale = half(np.abs(x).max(axis=0) / np.float32(31))
        codes = np.rint(x * reciprocal(scale)).clip(-31, 31) + 32
        return codes.astype(np.uint8), scale, None


@contextmanager
def registered() -> Iterator[DType]:
    """The element type of the toy, known to the compiler while the context lasts."""
    format = I6T()
    DType._value2member_map_[format.dtype.value] = format.dtype
    FORMATS[format.dtype] = format
    try:
        yield format.dtype
    finally:
        del DType._value2member_map_[format.dtype.value], FORMATS[format.dtype]
