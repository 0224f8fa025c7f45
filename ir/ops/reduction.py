"""Ops that read along a dimension: reductions, softmax, scans, top-k, small matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..types import DType, TensorType, broadcast_shapes
from .base import Op, require

REDUCE: dict[str, Callable[..., torch.Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "amax": torch.amax,
    "amin": torch.amin,
    "prod": torch.prod,
    "any": torch.any,
    "all": torch.all,
    "argmax": torch.argmax,
}


@dataclass(frozen=True)
class Reduce(Op):
    """`fn` over `dims` (negative), see `REDUCE`. Integer sums are i64; argmax gives i64."""

    fn: str
    dims: tuple[int, ...]
    keepdim: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(all(isinstance(x.shape[d], int) for d in self.dims), f"{self} of {x}: symbolic")
        dropped = {d % x.rank for d in self.dims}
        shape = [1 if i in dropped else d for i, d in enumerate(x.shape)]
        if not self.keepdim:
            shape = [d for i, d in enumerate(x.shape) if i not in dropped]
        dtype = x.dtype
        if self.fn in ("any", "all"):
            dtype = DType.BOOL
        elif self.fn == "argmax" or (self.fn in ("sum", "prod") and not dtype.is_float):
            dtype = DType.I64
        return (TensorType(dtype, tuple(shape)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        if self.fn in ("prod", "any", "all", "argmax"):  # these take one dimension a call
            for d in sorted((d % x.dim() for d in self.dims), reverse=True):
                x = REDUCE[self.fn](x, d, keepdim=self.keepdim)
            return x
        return REDUCE[self.fn](x, self.dims, keepdim=self.keepdim)


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax (or its logarithm) along `dim`."""

    dim: int
    log: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        fn = torch.log_softmax if self.log else torch.softmax
        return fn(inputs[0], self.dim)


@dataclass(frozen=True)
class CumSum(Op):
    """Running sum along `dim`."""

    dim: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(isinstance(x.shape[self.dim], int), f"scan along a symbolic dimension of {x}")
        return (x if x.dtype.is_float else x.with_dtype(DType.I64),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(inputs[0], self.dim)


@dataclass(frozen=True)
class TopK(Op):
    """The `k` largest values along the last dimension, descending, and their indices (i64).

    Equal values come in the order of their indices.
    """

    k: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(isinstance(x.shape[-1], int) and x.shape[-1] >= self.k, f"{self} of {x}")
        shape = (*x.shape[:-1], self.k)
        return x.with_shape(shape), TensorType(DType.I64, shape)

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, indices = torch.sort(inputs[0], dim=-1, descending=True, stable=True)
        return values[..., : self.k], indices[..., : self.k]


@dataclass(frozen=True)
class MatMul(Op):
    """Product over the last two dimensions, the others broadcast (torch.matmul, rank >= 2)."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        a, b = inputs
        require(a.rank >= 2 and b.rank >= 2 and a.shape[-1] == b.shape[-2], f"{a} @ {b}")
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return (TensorType(a.dtype, (*batch, a.shape[-2], b.shape[-1])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.matmul(*inputs)
