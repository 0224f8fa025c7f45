"""Causal convolution along the tokens, one filter a channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..types import DType, TensorType
from .base import require
from .stateful import Mixer, Tensors, Update


@dataclass(frozen=True)
class CausalConv(Mixer):
    """x f32[T, C], weight f32[C, K], with `bias` one f32[C] → f32[T, C].

    y[t, c] = sum over j of weight[c, j] * x[t - K + 1 + j, c], rows before the first being 0; then
    the bias, then x * sigmoid(x) if `silu`. A sequence keeps its last K - 1 rows of x.
    """

    parts = ("rows",)

    bias: bool = False
    silu: bool = False

    @property
    def rows(self) -> int:
        return 1

    def result(self, *inputs: TensorType) -> TensorType:
        require(len(inputs) == 2 + self.bias, f"{self}: {len(inputs)} inputs")
        x, weight = inputs[:2]
        require(x.rank == weight.rank == 2 and x.shape[1] == weight.shape[0], f"{x}, {weight}")
        require(x.dtype == DType.F32, f"{self} of {x}")
        return x

    def state_shapes(self, *inputs: TensorType) -> tuple[tuple[int, ...], ...]:
        channels, width = inputs[1].shape
        assert isinstance(channels, int)
        assert isinstance(width, int)
        return ((width - 1, channels),)

    def advance(self, inputs: Tensors, state: Tensors) -> tuple[torch.Tensor, Tensors]:
        x, weight = inputs[:2]
        width = weight.shape[1]
        rows = torch.cat((state[0], x))
        y = torch.zeros_like(x)
        for j in range(width):
            y = y + weight[:, j] * rows[j : j + len(x)]
        if self.bias:
            y = y + inputs[2]
        return torch.nn.functional.silu(y) if self.silu else y, (rows[len(x) :],)


class CausalConvUpdate(Update, CausalConv):
    """`CausalConv` of this step's tokens; state rows f32[N, K - 1, C]."""
