"""Weight recipes: a constant as an expression over checkpoint tensors, holding no weights.

In: leaves (`CheckpointTensor`, `Computed`, `Constant`). Out: trees that passes rewrite and that
`weights/values.py` evaluates by slices of rows when an artifact is written. Nodes are frozen,
compare and hash by content, and print as one deterministic line. `recipe.type` is the element type
and shape; values are float32 by meaning, whatever a checkpoint stores, until `Cast` or `Quantize`.
Dimensions count from 0 (the functions at the end also take negative ones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from ..ir.recipe import CheckpointTensor, Computed, Constant, Recipe, Shape, Tree
from ..ir.tiles import PANEL, round_up
from ..ir.types import DType, TensorType, broadcast_shapes
from .formats.registry import is_quantized

__all__ = [
    "Apply", "Cast", "CheckpointTensor", "Computed", "Concat", "Constant",
    "Elementwise", "InterleavePanels", "Norm", "Pack", "Permute", "Product", "Quantize", "Recipe",
    "Reshape", "Slice", "Take", "add", "chunk", "concat", "leaves", "mul", "permute", "stack",
    "transpose", "unsqueeze",
]  # fmt: skip


class HasReference(Protocol):
    """What `Apply` needs of an op: its torch meaning."""

    @property
    def reference(self) -> Callable[..., Any]:
        """Torch tensors in, a tensor or a tuple of tensors out."""
        ...


@dataclass(frozen=True, eq=False)
class Reshape(Tree):
    """The same elements in row-major order, under another shape."""

    arg: Recipe
    to: Shape
    label = "reshape"

    def __post_init__(self) -> None:
        _require(prod(self.to) == prod(self.arg.shape), f"reshape {self.arg.shape} to {self.to}")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_shape(self.to)


@dataclass(frozen=True, eq=False)
class Permute(Tree):
    """Dimension i of the result is dimension `dims[i]` of the argument."""

    arg: Recipe
    dims: Shape
    label = "permute"

    def __post_init__(self) -> None:
        _require(sorted(self.dims) == list(range(len(self.arg.shape))), f"permute {self.dims}")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_shape(self.arg.shape[d] for d in self.dims)


@dataclass(frozen=True, eq=False)
class Slice(Tree):
    """Elements `start:stop` along `dim`."""

    arg: Recipe
    dim: int
    start: int
    stop: int
    label = "slice"

    def __post_init__(self) -> None:
        size = self.arg.shape[self.dim]
        _require(0 <= self.start <= self.stop <= size, f"slice {self.start}:{self.stop} of {size}")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_shape(_replace(self.arg.shape, self.dim, self.stop - self.start))


@dataclass(frozen=True, eq=False)
class Take(Tree):
    """Entries `index` (a one-dimensional integer `Computed`) along `dim`."""

    arg: Recipe
    dim: int
    index: Computed
    label = "take"

    def __post_init__(self) -> None:
        index, size = self.index.value, self.arg.shape[self.dim]
        valid = index.ndim == 1 and index.size and index.min() >= 0 and index.max() < size
        _require(bool(valid), f"take from {size} entries")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_shape(_replace(self.arg.shape, self.dim, self.index.value.size))


@dataclass(frozen=True, eq=False)
class Concat(Tree):
    """The arguments behind one another along `dim`."""

    parts: tuple[Recipe, ...]
    dim: int = 0
    label = "concat"

    def __post_init__(self) -> None:
        rest = {_replace(p.shape, self.dim, 0) for p in self.parts}
        _require(len(rest) == 1, f"concat {[p.shape for p in self.parts]} along {self.dim}")
        _require(len({p.dtype for p in self.parts}) == 1, "concat of different dtypes")

    @property
    def type(self) -> TensorType:
        total = sum(p.shape[self.dim] for p in self.parts)
        return self.parts[0].type.with_shape(_replace(self.parts[0].shape, self.dim, total))


@dataclass(frozen=True, eq=False)
class InterleavePanels(Tree):
    """Rows of `gate` and `up` [..., N, K] in alternating panels of 16, for a gated epilogue.

    The result is [..., 2*Np, K] with Np = N rounded up to 16; rows past N are zero.
    """

    gate: Recipe
    up: Recipe
    label = "interleave_panels"

    def __post_init__(self) -> None:
        same = self.gate.type == self.up.type and len(self.gate.shape) >= 1
        _require(same, f"interleave {self.gate.type} and {self.up.type}")

    @property
    def row_dim(self) -> int:
        """The dimension that panels run along: the last but one, or that of a vector."""
        return max(0, len(self.gate.shape) - 2)

    @property
    def type(self) -> TensorType:
        padded = round_up(self.gate.shape[self.row_dim], PANEL)
        return self.gate.type.with_shape(_replace(self.gate.shape, self.row_dim, 2 * padded))


@dataclass(frozen=True, eq=False)
class Elementwise(Tree):
    """`kind` (add, mul, div, neg, log, exp) of the broadcast arguments, in float32."""

    kind: str
    operands: tuple[Recipe, ...]

    def __post_init__(self) -> None:
        _require(ELEMENTWISE.get(self.kind) == len(self.operands), f"elementwise {self.kind}")

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.operands))})"

    @property
    def type(self) -> TensorType:
        return TensorType(DType.F32, broadcast_shapes(*(a.shape for a in self.operands)))


ELEMENTWISE = {"add": 2, "mul": 2, "div": 2, "neg": 1, "log": 1, "exp": 1}
"""Kinds of `Elementwise` and how many arguments they take."""


@dataclass(frozen=True, eq=False)
class Product(Tree):
    """The matrix product of `left` [N, R] and `right` [R, K], which is small (R is a rank).

    Sums are rounded once, from float64, so that they hardly depend on who computes them.
    """

    left: Recipe
    right: Recipe
    label = "product"

    def __post_init__(self) -> None:
        shapes = self.left.shape, self.right.shape
        matrices = all(len(shape) == 2 for shape in shapes)
        _require(matrices and shapes[0][1] == shapes[1][0], f"product of {shapes}")

    @property
    def type(self) -> TensorType:
        return TensorType(DType.F32, (self.left.shape[0], self.right.shape[1]))


@dataclass(frozen=True, eq=False)
class Norm(Tree):
    """Euclidean lengths of the rows of `arg` [N, K] (dim 1: [N, 1]) or columns (dim 0: [1, K])."""

    arg: Recipe
    dim: int
    label = "norm"

    def __post_init__(self) -> None:
        _require(len(self.arg.shape) == 2 and self.dim in (0, 1), f"norms of {self.arg.type}")

    @property
    def type(self) -> TensorType:
        return TensorType(DType.F32, _replace(self.arg.shape, self.dim, 1))


@dataclass(frozen=True, eq=False)
class Cast(Tree):
    """The value rounded to `to` (f32, f16 or bf16), half to even."""

    arg: Recipe
    to: DType
    label = "cast"

    def __post_init__(self) -> None:
        _require(self.to.is_float, f"cast to {self.to}")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_dtype(self.to)


@dataclass(frozen=True, eq=False)
class Apply(Tree):
    """Output `output` of an op's torch reference on the arguments: a folded constant subgraph."""

    op: HasReference
    operands: tuple[Recipe, ...]
    result: TensorType
    output: int = 0
    label = "apply"

    @property
    def type(self) -> TensorType:
        return self.result


@dataclass(frozen=True, eq=False)
class Quantize(Tree):
    """`arg` [..., N, K] in a number format, rows quantized one by one."""

    format: DType
    arg: Recipe
    label = "quantize"

    def __post_init__(self) -> None:
        matrix = len(self.arg.shape) >= 2
        _require(matrix and is_quantized(self.format), f"quantize {self.arg.type}")

    @property
    def type(self) -> TensorType:
        return self.arg.type.with_dtype(self.format)


@dataclass(frozen=True, eq=False)
class Pack(Tree):
    """`arg` [N, K] or [E, N, K] as the bytes of a backend's layout, E matrices in a row.

    `arg` may be a `Quantize` of the same format; otherwise it is rounded while packing.
    """

    layout: str
    format: DType
    arg: Recipe
    label = "pack"

    def __post_init__(self) -> None:
        _require(len(self.arg.shape) in (2, 3), f"pack {self.arg.type}")
        inner = self.arg
        _require(not isinstance(inner, Quantize) or inner.format == self.format, "pack formats")

    @property
    def type(self) -> TensorType:
        """Logical type; how many bytes that is, the backend's packer knows."""
        return self.arg.type.with_dtype(self.format)

    @property
    def content(self) -> Recipe:
        """The unquantized values that are packed."""
        return self.arg.arg if isinstance(self.arg, Quantize) else self.arg


def stack(parts: Sequence[Recipe], dim: int = 0) -> Recipe:
    """The arguments along a new dimension `dim`."""
    return concat([unsqueeze(part, dim) for part in parts], dim)


def concat(parts: Sequence[Recipe], dim: int = 0) -> Recipe:
    return parts[0] if len(parts) == 1 else Concat(tuple(parts), dim % len(parts[0].shape))


def unsqueeze(arg: Recipe, dim: int) -> Recipe:
    dim %= len(arg.shape) + 1
    return Reshape(arg, (*arg.shape[:dim], 1, *arg.shape[dim:]))


def permute(arg: Recipe, dims: Sequence[int]) -> Recipe:
    """Dimension i of the result is dimension `dims[i]` of `arg`; permutes of permutes are one."""
    dims = tuple(d % len(arg.shape) for d in dims)
    if isinstance(arg, Permute):
        arg, dims = arg.arg, tuple(arg.dims[d] for d in dims)
    return arg if dims == tuple(range(len(dims))) else Permute(arg, dims)


def transpose(arg: Recipe, dim0: int = -2, dim1: int = -1) -> Recipe:
    dims = list(range(len(arg.shape)))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(arg, dims)


def chunk(arg: Recipe, count: int, dim: int = 0) -> tuple[Recipe, ...]:
    """`count` equal slices along `dim`."""
    dim %= len(arg.shape)
    size = arg.shape[dim] // count
    _require(size * count == arg.shape[dim], f"chunk {arg.shape[dim]} by {count}")
    return tuple(Slice(arg, dim, i * size, (i + 1) * size) for i in range(count))


def add(a: Recipe | float, b: Recipe | float) -> Recipe:
    return Elementwise("add", (_recipe(a), _recipe(b)))


def mul(a: Recipe | float, b: Recipe | float) -> Recipe:
    return Elementwise("mul", (_recipe(a), _recipe(b)))


def leaves(recipe: Recipe) -> Iterator[Recipe]:
    """The leaves from left to right, each as often as it is read."""
    if not recipe.args:
        yield recipe
    for arg in recipe.args:
        yield from leaves(arg)


def _recipe(value: Recipe | float) -> Recipe:
    return value if isinstance(value, Recipe) else Constant(float(value))


def _replace(shape: Shape, dim: int, size: int) -> Shape:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"impossible recipe: {what}")
