"""The number formats that weights can have, and what is asked of all of them.

K is the input dimension; blocks are 32 consecutive elements along K (of `i6k` 16):

| format | code          | value               | side data                      | same bits as |
|--------|---------------|---------------------|--------------------------------|--------------|
| `f8c`  | u8, E4M3 bits | `s[n] * e4m3(q)`    | f32 scale per row              |              |
| `i8c`  | i8, -128..127 | `s[n] * q`          | f32 scale per row              |              |
| `i8b`  | i8, -128..127 | `d * q`             | f16 scale per block            | GGUF Q8_0    |
| `i6k`  | u8, 0..63     | `D * f * (q - 32)`  | D of super-blocks, f i8        | GGUF Q6_K    |
| `i5s`  | u8, 0..31     | `d * (q - 16)`      | f16 scale per block            | GGUF Q5_0    |
| `i5a`  | u8, 0..31     | `d * q + m`         | f16 scale and min per block    | GGUF Q5_1    |
| `i5k`  | u8, 0..31     | `D * f * q + M * g` | D, M of super-blocks, f, g u6  | GGUF Q5_K    |
| `i4s`  | u8, 0..15     | `d * (q - 8)`       | f16 scale per block            | GGUF Q4_0    |
| `i4a`  | u8, 0..15     | `d * q + m`         | f16 scale and min per block    | GGUF Q4_1    |
| `i4k`  | u8, 0..15     | `D * f * q + M * g` | D, M of super-blocks, f, g u6  | GGUF Q4_K    |

D and M are f16; a super-block is 8 times 32 elements where that divides K (`super_block_length`).
"""

from __future__ import annotations

import numpy as np

from ...ir.types import DType
from .f8c import F8C
from .i4a import I4A
from .i4k import I4K
from .i4s import I4S
from .i5a import I5A
from .i5k import I5K
from .i5s import I5S
from .i6k import I6K
from .i8b import I8B
from .i8c import I8C
from .number_format import NumberFormat, Quantized

FORMATS: dict[DType, NumberFormat] = {
    f.dtype: f for f in (I4S(), I4K(), I4A(), I5S(), I5K(), I5A(), I6K(), I8B(), I8C(), F8C())
}
"""Smaller ones first: where several hold a checkpoint's blocks exactly, the first is the best."""


NEAREST: dict[str, DType] = {
    "q2_k": DType.I5K, "iq1_s": DType.I6K, "iq1_m": DType.I6K, "iq2_xxs": DType.I6K,
    "iq2_xs": DType.I6K, "iq2_s": DType.I6K, "iq3_xxs": DType.I5S, "iq3_s": DType.I5S,
    "iq4_xs": DType.I6K, "nvfp4": DType.I6K, "tq1_0": DType.I4S, "tq2_0": DType.I4S,
    "nf4": DType.I6K, "fp4": DType.I6K, "int4_small_groups": DType.I6K,
    "int4_unordered": DType.I6K,
}  # fmt: skip
"""For blocks that no format holds exactly: the smallest one that changes them by less than 2 %
(root mean square of the error, by that of the values)."""


EIGHT_BITS = frozenset({"int8"})
"""Blocks of checkpoints in which all weights have 8 bits: a scheme of fewer bits doesn't keep them.
(Those of GGUF files are the finer part of a mix.)"""


def is_quantized(dtype: DType) -> bool:
    """Whether elements of this type are codes with scales, not numbers by themselves."""
    return dtype in FORMATS


def format_of(dtype: DType) -> NumberFormat:
    """The format of a quantized element type.

    Raises:
        ValueError: `dtype` isn't one.
    """
    if dtype not in FORMATS:
        raise ValueError(f"{dtype} is not a quantized format")
    return FORMATS[dtype]


def formats_that_hold(stored: str) -> tuple[DType, ...]:
    """The formats, best first, that hold blocks of a checkpoint's format `stored` exactly."""
    return tuple(dtype for dtype, format in FORMATS.items() if stored in format.holds)


def quantize(weights: np.ndarray, dtype: DType) -> Quantized:
    """Finite float32 `weights` [N, K] in the format of `dtype`.

    Raises:
        ValueError: not two-dimensional, or `dtype` isn't a quantized format.
        OverflowError: a block's scale or minimum is beyond float16.
    """
    if weights.ndim != 2:
        raise ValueError(f"weights must be [N, K], not {weights.shape}")
    return format_of(dtype).quantize(np.asarray(weights, np.float32))


def dequantize(quantized: Quantized) -> np.ndarray:
    """The float32 values [N, K] that `quantized` stands for."""
    return quantized.format.dequantize(quantized)
