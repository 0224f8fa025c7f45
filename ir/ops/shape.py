"""Data movement: reshape, permute, expand, slice, concat, gather, scatter, and value sources.

Dimension attributes count from the right (negative), so that dropping a leading
unit dimension (`passes/drop_batch.py`) leaves them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..types import Dim, DType, T, TensorType, bind_dim, broadcast_shapes, volume
from .base import TORCH_DTYPE, Op, require


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape."""

    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(volume(x.shape) == volume(self.shape), f"can't reshape {x} to {self.shape}")
        return (x.with_shape(self.shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].reshape([bind_dim(d, {}) for d in self.shape])


@dataclass(frozen=True)
class Permute(Op):
    """Output dimension i is input dimension `dims[i]` (negative, a permutation)."""

    dims: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(sorted(self.dims) == list(range(-x.rank, 0)), f"bad permutation {self.dims}")
        return (x.with_shape(x.shape[d] for d in self.dims),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].permute(self.dims)


@dataclass(frozen=True)
class Expand(Op):
    """Broadcast to `shape`."""

    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(broadcast_shapes(x.shape, self.shape) == self.shape, f"can't expand {x}")
        return (x.with_shape(self.shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].expand([bind_dim(d, {}) for d in self.shape])


@dataclass(frozen=True)
class Slice(Op):
    """Elements `start:stop:step` along `dim` (0 <= start <= stop <= size, step > 0)."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        size = x.shape[self.dim]
        require(isinstance(size, int), f"can't slice symbolic dimension {self.dim} of {x}")
        assert isinstance(size, int)
        require(0 <= self.start <= self.stop <= size and self.step > 0, f"{self} of {x}")
        shape = list(x.shape)
        shape[self.dim] = -(-(self.stop - self.start) // self.step)
        return (x.with_shape(shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        index = [slice(None)] * inputs[0].dim()
        index[self.dim] = slice(self.start, self.stop, self.step)
        return inputs[0][tuple(index)]


@dataclass(frozen=True)
class Concat(Op):
    """Inputs behind one another along `dim`, which is not symbolic."""

    dim: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        first = inputs[0]
        total = 0
        for x in inputs:
            size = x.shape[self.dim]
            require(isinstance(size, int), "can't concatenate along a symbolic dimension")
            assert isinstance(size, int)
            total += size
            rest = list(x.shape)
            rest[self.dim] = first.shape[self.dim]
            require(tuple(rest) == first.shape and x.dtype == first.dtype, f"{x} vs {first}")
        shape = list(first.shape)
        shape[self.dim] = total
        return (first.with_shape(shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, self.dim)


@dataclass(frozen=True)
class Embedding(Op):
    """`y[..., :] = table[ids[...], :]` with table [rows, width]; ids i32 or i64.

    Rows of a table in bf16, f16 or a block format come out as f32.
    """

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        table, ids = inputs
        require(table.rank == 2, "an embedding table has two dimensions")
        keeps = table.dtype in TORCH_DTYPE and not table.dtype.is_float
        dtype = table.dtype if keeps else DType.F32
        return (TensorType(dtype, (*ids.shape, table.shape[1])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        table, ids = inputs
        rows = table[ids.long()]
        return rows.float() if rows.is_floating_point() else rows


def _same_but(dim: int, x: TensorType, index: TensorType) -> bool:
    """Whether the shapes are equal but for `dim`; a shorter index would pick the first rows."""
    pairs = zip(range(-x.rank, 0), x.shape, index.shape, strict=False)
    return x.rank == index.rank and all(a == b for d, a, b in pairs if d != dim)


@dataclass(frozen=True)
class Gather(Op):
    """`y[..i..] = x[..index[..i..]..]` along `dim` (torch.gather), negative.

    `index` has the shape of x but along `dim`.
    """

    dim: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, index = inputs
        require(_same_but(self.dim, x, index), f"gather from {x} at {index}")
        return (x.with_shape(index.shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.gather(inputs[0], self.dim, inputs[1].long())


@dataclass(frozen=True)
class Scatter(Op):
    """A copy of x with `y[..index[..i..]..] = src[..i..]` along `dim` (torch.scatter).

    `src` may be rank 0. With `accumulate` the values are added instead.
    """

    dim: int
    accumulate: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, index, src = inputs
        require(_same_but(self.dim, x, index), f"scatter into {x} at {index}")
        require(src.rank == 0 or src.shape == index.shape, "scatter: src must match index")
        return (x,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, index, src = inputs
        src = src.to(x.dtype).expand(index.shape)
        if self.accumulate:
            return x.scatter_add(self.dim, index.long(), src)
        return x.scatter(self.dim, index.long(), src)


@dataclass(frozen=True)
class Full(Op):
    """A tensor of one value (rank-0 input) in every place."""

    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        require(x.rank == 0, "full takes a scalar")
        return (x.with_shape(self.shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].expand([bind_dim(d, {}) for d in self.shape])


@dataclass(frozen=True)
class Iota(Op):
    """`0, 1, …, size - 1`."""

    size: int
    dtype: DType = DType.I64

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        require(not inputs, "iota takes no inputs")
        return (TensorType(self.dtype, (self.size,)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.size, dtype=TORCH_DTYPE[self.dtype])


@dataclass(frozen=True)
class TokenCount(Op):
    """The number of tokens of the traced sequence, a rank-0 i64.

    A step doesn't know it: only legal until `raise_attention`, in biases whose rows differ from
    those of another length by a number for each row.
    """

    count: tuple[Dim, ...] = (T,)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        require(not inputs, "token_count takes no inputs")
        return (TensorType(DType.I64, ()),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor(bind_dim(self.count[0], {}))
