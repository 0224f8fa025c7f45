"""Normalization over the last dimension, with optional residual sum and row quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..types import TensorType
from .base import Op, require
from .linear import QuantizeRows, quantized_types


@dataclass(frozen=True)
class Norm(Op, mnemonics=("rms_norm", "layer_norm")):
    """`rms_norm`: x / sqrt(mean(x²) + eps); `layer_norm`: (x - mean) / sqrt(var + eps).

    Inputs: x f32[..., N], residual if `add`, weight [N] if `weight`, bias [N] if `bias`.
    Results: with `add` first the sum x + residual (which is what is normalized); then
    the normalized rows f32[..., N], or with `quantize` the three results of
    `QuantizeRows` on them.
    """

    fn: str
    eps: float = 1e-6
    weight: bool = True
    bias: bool = False
    add: bool = False
    quantize: bool = False

    @property
    def mnemonic(self) -> str:
        return self.fn

    def attributes(self) -> dict[str, Any]:
        return {k: v for k, v in super().attributes().items() if k != "fn"}

    def split(self, inputs: tuple) -> tuple:
        """(x, residual or None, weight or None, bias or None)."""
        rest = list(inputs)
        x = rest.pop(0)
        residual = rest.pop(0) if self.add else None
        weight = rest.pop(0) if self.weight else None
        bias = rest.pop(0) if self.bias else None
        require(not rest, f"{self} has too many inputs")
        return x, residual, weight, bias

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, residual, weight, bias = self.split(inputs)
        n = x.shape[-1]
        require(isinstance(n, int), f"norm over a symbolic dimension of {x}")
        assert isinstance(n, int)
        require(residual is None or residual == x, f"residual {residual} for {x}")
        for vector in (weight, bias):
            require(vector is None or vector.shape == (n,), f"{vector} for {x}")
        result = quantized_types(x.shape[:-1], n) if self.quantize else (x,)
        return (x, *result) if self.add else result

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x, residual, weight, bias = self.split(inputs)
        total = x if residual is None else x + residual
        if self.fn == "rms_norm":
            y = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + self.eps)
            y = y if weight is None else y * weight
            y = y if bias is None else y + bias
        else:
            y = F.layer_norm(total, total.shape[-1:], weight, bias, self.eps)
        result = QuantizeRows().reference(y) if self.quantize else (y,)
        return (total, *result) if self.add else (result if self.quantize else y)
