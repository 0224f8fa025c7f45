"""Element types, dimensions and tensor types of the IR.

A dimension is an int or a symbol: `T` query tokens in the step, `S` sequences,
`R` logits rows wanted, `B` blocks per sequence, `P` blocks in a cache pool. A
symbol may carry an integer factor (`2*T`: each token goes to two experts), never a
sum: activations are packed, so nothing is ever concatenated along `T`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import prod
from typing import Protocol


class DType(StrEnum):
    """Element type.

    Those from `f8c` on are number formats of weights: `weights/formats/registry.py` says what each
    means.
    """

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"
    F8C = "f8c"
    I8C = "i8c"
    I8B = "i8b"
    I6K = "i6k"
    I5S = "i5s"
    I5A = "i5a"
    I5K = "i5k"
    I4S = "i4s"
    I4A = "i4a"
    I4K = "i4k"

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.BF16, DType.F16)

    @property
    def itemsize(self) -> int:
        """Bytes per element; raises KeyError for number formats, which have none."""
        return _ITEMSIZE[self]


_ITEMSIZE = {
    DType.F32: 4, DType.BF16: 2, DType.F16: 2, DType.I64: 8, DType.I32: 4,
    DType.I8: 1, DType.U8: 1, DType.BOOL: 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sym:
    """A symbolic dimension: `scale * name`."""

    name: str
    scale: int = 1

    def __str__(self) -> str:
        return self.name if self.scale == 1 else f"{self.scale}*{self.name}"

    __repr__ = __str__


Dim = int | Sym
Env = Mapping[str, int]

T, S, R = Sym("T"), Sym("S"), Sym("R")


def bind_dim(dim: Dim, env: Env) -> int:
    """The value of `dim` where symbols have the values of `env`."""
    return env[dim.name] * dim.scale if isinstance(dim, Sym) else dim


def numel(shape: Iterable[Dim]) -> Dim:
    """Number of elements; a shape holds at most one symbol.

    Raises:
        ValueError: two symbolic dimensions (their product is not a dimension).
    """
    shape = tuple(shape)
    count = prod(d if isinstance(d, int) else d.scale for d in shape)
    symbols = [d.name for d in shape if isinstance(d, Sym)]
    if len(symbols) > 1:
        raise ValueError(f"shape {shape} has more than one symbolic dimension")
    return Sym(symbols[0], count) if symbols else count


def volume(shape: Iterable[Dim]) -> tuple[int, tuple[str, ...]]:
    """What equal numbers of elements have in common: the factor, and the symbols it multiplies.

    Unlike `numel` also for shapes of several symbols, such as scores of tokens with tokens.
    """
    shape = tuple(shape)
    count = prod(d if isinstance(d, int) else d.scale for d in shape)
    return count, tuple(sorted(d.name for d in shape if isinstance(d, Sym)))


def divide(dim: Dim, by: Dim) -> Dim:
    """`dim / by`, which must be exact.

    Raises:
        ValueError: the division leaves a rest or a fractional symbol.
    """
    scale = dim if isinstance(dim, int) else dim.scale
    by_scale = by if isinstance(by, int) else by.scale
    name = dim.name if isinstance(dim, Sym) else None
    by_name = by.name if isinstance(by, Sym) else None
    if by_scale == 0 or scale % by_scale or (by_name is not None and by_name != name):
        raise ValueError(f"{dim} is not divisible by {by}")
    quotient = scale // by_scale
    return quotient if by_name == name else Sym(name or "", quotient)


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a value."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_symbolic(self) -> bool:
        return any(isinstance(d, Sym) for d in self.shape)

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class HasTypeRule(Protocol):
    """What `infer_types` needs of an op."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]: ...


@lru_cache(maxsize=4096)
def infer_types(op: HasTypeRule, inputs: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
    """`op.infer(*inputs)`, remembered: a model's layers ask the same again and again.

    Raises:
        TypeError, ValueError: the op refuses these input types.
    """
    return op.infer(*inputs)


def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that all of `shapes` broadcast to (NumPy rules; a symbol is never 1).

    Raises:
        ValueError: they don't broadcast.
    """
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    result: list[Dim] = []
    for dims in zip(*padded, strict=True):
        wide = {d for d in dims if d != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)
