"""Schemes as the triton target computes them.

| scheme     | weights                                    | products | cache |
|------------|--------------------------------------------|----------|-------|
| `f32`      | f32                                        | f32      | f32   |
| `bf16`     | bf16                                       | bf16     | bf16  |
| `fp16`     | f16                                        | f16      | f16   |
| `int8`     | 8 bits, a scale for each row               | bf16     | bf16  |
| `fp8`      | 8-bit floats, a scale for each row         | bf16     | bf16  |
| `int4`     | 4 bits in K-quants of blocks of 32         | bf16     | bf16  |
| `int4-sym` | 4 bits, a scale for each block of 32       | bf16     | bf16  |

Codes are converted exactly and their products scaled in f32, so only activations are rounded.
A cache of 8 bits is asked for by name: it halves what long contexts take, at a price in quality.
"""

from __future__ import annotations

from ...ir.types import DType
from ...passes.quantize import BLOCK_FORMATS, Scheme

SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme("f32", DType.F32, DType.F32, DType.F32),
        Scheme("bf16", DType.BF16, DType.BF16, DType.BF16),
        Scheme("fp16", DType.F16, DType.F16, DType.F16),
        Scheme("int8", DType.I8C, DType.I8C, DType.BF16, holds=(DType.I8C, DType.I8B)),
        Scheme("int4", DType.I4K, DType.I8B, DType.BF16, holds=BLOCK_FORMATS),
        Scheme("int4-sym", DType.I4S, DType.I8B, DType.BF16, holds=BLOCK_FORMATS),
        Scheme("fp8", DType.F8C, DType.F8C, DType.BF16, holds=(DType.F8C,)),
    )
}
CACHES: dict[str, DType] = {
    "f32": DType.F32,
    "bf16": DType.BF16,
    "fp16": DType.F16,
    "int8": DType.I8,
}
