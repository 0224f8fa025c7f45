"""Schemes as TensorRT does them: the compute type, and what linear layers are quantized to.

| scheme     | products                          | caches | SMs                         |
|------------|-----------------------------------|--------|-----------------------------|
| `f32`      | f32, TF32 off                     | f32    | 80 and up (75: no such)     |
| `fp16`     | f16                               | f16    | 75, 80, 86, 89, 120, 121    |
| `bf16`     | bf16                              | bf16   | 80 and up                   |
| `int8`     | int8 × int8, f16 elsewhere        | f16    | all                         |
| `int4-sym` | f16, weights int4 in blocks of 32 | f16    | 80 and up                   |
| `fp8`      | E4M3 × E4M3, f16 elsewhere        | f16    | 89, 120, 121                |

Each was built, or refused, for each SM with TensorRT for RTX 1.7.1. `int4` means `int4-sym` here:
TensorRT's zero points must be zero, so there are no minima.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...ir.types import DType
from ...passes.quantize import Scheme, find_scheme

UNBOUNDED = math.inf
"""The range of a layer's input that one scale doesn't suit."""
BUILDABLE = (75, 80, 86, 89, 120, 121)
_AMPERE = (80, 86, 89, 120, 121)
_FP8 = (89, 120, 121)


@dataclass(frozen=True)
class Precision:
    """How a scheme is computed. `fp8`: linear layers with f16 weights, the head's apart, are E4M3.

    `calibrated`: inputs of linear layers are quantized, so their ranges have to be measured.
    """

    scheme: Scheme
    compute: DType
    sms: tuple[int, ...]
    fp8: bool = False

    @property
    def calibrated(self) -> bool:
        return self.fp8 or self.scheme.weight is DType.I8C


def _precision(name: str, weight: DType, compute: DType, sms: tuple[int, ...]) -> Precision:
    head = weight if weight is DType.I8C else compute
    return Precision(Scheme(name, weight, head, compute), compute, sms)


_CACHE_NAMES = {DType.F32: "f32", DType.F16: "fp16", DType.BF16: "bf16"}

PRECISIONS: dict[str, Precision] = {
    p.scheme.name: p
    for p in (
        _precision("f32", DType.F32, DType.F32, _AMPERE),
        _precision("fp16", DType.F16, DType.F16, BUILDABLE),
        _precision("bf16", DType.BF16, DType.BF16, _AMPERE),
        _precision("int8", DType.I8C, DType.F16, BUILDABLE),
        replace(_precision("fp8", DType.F16, DType.F16, _FP8), fp8=True),
        _precision("int4", DType.I4S, DType.F16, _AMPERE),
        _precision("int4-sym", DType.I4S, DType.F16, _AMPERE),
    )
}


def find_precision(name: str, kv_cache: str | None) -> Precision:
    """How to compute a scheme.

    Raises:
        LlmcError: LLMC-E0201, there is no such scheme; E0231, TensorRT can't do the scheme, or
            not with this cache.
    """
    schemes = {known: precision.scheme for known, precision in PRECISIONS.items()}
    find_scheme(name, target="trt", schemes=schemes)
    precision = PRECISIONS[name]
    own = {_CACHE_NAMES[precision.compute]: precision.compute}
    find_scheme(name, kv_cache, target="trt", schemes=schemes, caches=own)
    return precision
