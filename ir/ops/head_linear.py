"""Linear layers with a matrix for each head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..tiles import BLOCK, round_up
from ..types import DType, TensorType
from .base import require
from .linear import Linear, dequantized


@dataclass(frozen=True)
class HeadLinear(Linear):
    """y[t, h] = W[h] x[t, h]: x f32[T, H, K] (or q, scale, total), weight [H, N, K] → f32[T, H, N].

    Takes no bias, residual or activation.
    """

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x, *_), weight, bias, residual = self.split(inputs)
        plain = not (self.act or self.gated or self.softcap or self.out)
        require(bias is residual is None and plain, f"{self} has no epilogue")
        require(x.rank == 3 and weight.rank == 3, f"head_linear of {x} with {weight}")
        heads, n, k = weight.shape
        k_in = round_up(k, BLOCK) if self.quantized else k
        require(x.shape[1:] == (heads, k_in), f"head_linear: {x} does not fit weight {weight}")
        return (TensorType(DType.F32, (x.shape[0], heads, n)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, weight, _, _ = self.split(inputs)
        value = dequantized(x[0], x[1], weight.shape[-1]) if self.quantized else x[0]
        return torch.einsum("thk,hnk->thn", value, weight.to(value.dtype))
