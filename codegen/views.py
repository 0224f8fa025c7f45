"""Where the elements of a value lie: strided views of stored buffers.

The layout rule that makes views free: a buffer that depends on a symbol (`T` tokens,
`R` logits rows) is stored with that dimension outermost, whatever its place in the logical
shape. So no stride ever depends on the symbol, and slices, permutations, broadcasts
and most reshapes are views with compile-time strides. Offsets and strides count elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from ..ir.types import Dim, DType, Sym, TensorType

# Stands for one unit of a symbol when sizes are compared: larger than any real stride
# factor and prime, so a product that holds it can't be mistaken for another one.
_UNIT = 2_147_483_647


@dataclass(frozen=True, slots=True)
class Storage:
    """A buffer as generated code knows it, by its `name`."""

    name: str
    dtype: DType
    numel: Dim
    external: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a storage. A scalar known at compile time has a `literal` and no storage."""

    storage: Storage | None
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[int, ...]
    offset: int = 0
    literal: str = ""

    @property
    def symbol(self) -> str:
        """The symbol that the shape depends on, or ''."""
        return next((d.name for d in self.shape if isinstance(d, Sym)), "")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    @property
    def pointer(self) -> str:
        """Address of the first element as an expression of C."""
        assert self.storage is not None, "a literal has no address"
        return f"{self.storage.name} + {self.offset}" if self.offset else self.storage.name


def storage_order(shape: Sequence[Dim]) -> list[int]:
    """Dimensions from outermost to innermost: the symbolic one, then the rest as they are."""
    symbolic = [i for i, d in enumerate(shape) if isinstance(d, Sym)]
    return symbolic + [i for i, d in enumerate(shape) if not isinstance(d, Sym)]


def dense_strides(shape: Sequence[Dim]) -> tuple[int, ...]:
    """Strides of a freshly stored value of this shape."""
    strides = [0] * len(shape)
    step = 1
    for i in reversed(storage_order(shape)):
        strides[i] = step
        size = shape[i]
        step *= size if isinstance(size, int) else 1
    return tuple(strides)


def whole(storage: Storage, type: TensorType) -> View:
    """All of `storage`, as a fresh value of `type`."""
    return View(storage, type.dtype, type.shape, dense_strides(type.shape))


def is_dense(view: View) -> bool:
    """Laid out like a freshly stored value (dimensions of size 1 don't count)."""
    if view.storage is None:
        return False
    dense = dense_strides(view.shape)
    return all(a == b or d == 1 for a, b, d in zip(view.strides, dense, view.shape, strict=True))


def is_whole(view: View) -> bool:
    """Dense, and nothing else is in its storage."""
    return is_dense(view) and view.offset == 0 and _units(view.shape) == _units_of(view.storage)


def permute(view: View, dims: Sequence[int]) -> View:
    return replace(
        view,
        shape=tuple(view.shape[d] for d in dims),
        strides=tuple(view.strides[d] for d in dims),
    )


def slice_dim(view: View, dim: int, start: int, length: int, step: int) -> View:
    shape, strides = list(view.shape), list(view.strides)
    offset = view.offset + start * strides[dim]
    shape[dim] = length
    strides[dim] *= step
    return replace(view, shape=tuple(shape), strides=tuple(strides), offset=offset)


def expand(view: View, shape: Sequence[Dim]) -> View:
    """Broadcast to `shape`: repeated dimensions have stride 0."""
    missing = len(shape) - len(view.shape)
    old: tuple[Dim, ...] = (1,) * missing + view.shape
    strides = (0,) * missing + view.strides
    kept = tuple(s if a == b else 0 for a, b, s in zip(old, shape, strides, strict=True))
    return replace(view, shape=tuple(shape), strides=kept)


def reshape(view: View, shape: Sequence[Dim]) -> View | None:
    """The same elements in row-major order as `shape`, or None where no strides express it."""
    strides = _reshaped_strides(_units_each(view.shape), view.strides, _units_each(shape))
    if strides is None:
        return None
    return replace(view, shape=tuple(shape), strides=strides)


def refine(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The coarsest shape that both `old` and `new` are made from by joining dimensions.

    Splitting a dimension needs no strides to fit, so a copy between two views of this
    shape carries out any reshape that has one; None where boundaries fall across.
    """
    a, b = [d for d in old if d != 1], [d for d in new if d != 1]
    result: list[Dim] = []
    while a and b:
        x, y = a.pop(), b.pop()
        small, large, rest = (x, y, b) if _units([x]) <= _units([y]) else (y, x, a)
        if _units([large]) % _units([small]):
            return None
        result.append(small)
        if small != large:
            rest.append(_quotient(large, small))
    return tuple(reversed(result)) if not a and not b else None


def reshaped(
    view: View,
    shape: Sequence[Dim],
    fresh: Callable[[TensorType], View],
    copy: Callable[[View, View], None],
) -> View | None:
    """`view` under another shape: the same memory if strides express it, else what `copy` (source,
    target of the same shape) has put in a `fresh` one. None where that would mix tokens."""
    result = reshape(view, shape)
    if result is not None:
        return result
    common = refine(view.shape, shape)
    if common is not None:
        target = fresh(TensorType(view.dtype, tuple(shape)))
        source, parts = reshape(view, common), reshape(target, common)
        if source is not None and parts is not None:
            copy(source, parts)
            return target
    return reshape(dense(view, fresh, copy), shape)


def dense(
    view: View,
    fresh: Callable[[TensorType], View],
    copy: Callable[[View, View], None],
    dtype: DType | None = None,
) -> View:
    """`view` if it is laid out like a fresh value (of `dtype`), else a copy that is."""
    dtype = dtype or view.dtype
    if is_dense(view) and dtype is view.dtype:
        return view
    target = fresh(TensorType(dtype, view.shape))
    copy(view, target)
    return target


def rows(view: View, keep: int = 1) -> tuple[Dim, int] | None:
    """All but the last `keep` dimensions as one: (count, stride), or None if they don't join.

    Rows are counted in storage order (the symbolic dimension outermost), the same for
    every view of one shape, so operands and result of a row kernel agree.
    """
    lead = view.shape[: len(view.shape) - keep]
    order = [i for i in storage_order(lead) if lead[i] != 1]
    if not order:
        return 1, 0
    for outer, inner in pairwise(order):
        size = lead[inner]
        assert isinstance(size, int), "the symbolic dimension comes first"
        if view.strides[outer] != size * view.strides[inner]:
            return None
    count = _from_units(_units(lead), lead)
    return count, view.strides[order[-1]]


def packed_tail(view: View, keep: int) -> bool:
    """The last `keep` dimensions are contiguous, row-major."""
    tail = len(view.shape) - keep
    step = 1
    for size, stride in zip(
        view.shape[: tail - 1 : -1], view.strides[: tail - 1 : -1], strict=True
    ):
        if size != 1 and stride != step:
            return False
        step *= size if isinstance(size, int) else 0
    return True


def _units(shape: Sequence[Dim]) -> int:
    return prod(_units_each(shape))


def _units_each(shape: Sequence[Dim]) -> list[int]:
    return [d if isinstance(d, int) else d.scale * _UNIT for d in shape]


def _units_of(storage: Storage | None) -> int:
    return 0 if storage is None else _units([storage.numel])


def _from_units(units: int, shape: Sequence[Dim]) -> Dim:
    symbol = next((d.name for d in shape if isinstance(d, Sym)), None)
    return units if symbol is None else Sym(symbol, units // _UNIT)


def _quotient(large: Dim, small: Dim) -> Dim:
    quotient = _units([large]) // _units([small])
    if isinstance(large, Sym) and not isinstance(small, Sym):
        return Sym(large.name, quotient // _UNIT)
    return quotient


def _reshaped_strides(
    old: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    chunks = _chunks(old, strides)  # innermost last
    result = [0] * len(new)
    size, stride = chunks.pop() if chunks else (1, 0)
    for i in reversed(range(len(new))):
        if new[i] == 1:
            continue
        if size == 1 and chunks:
            size, stride = chunks.pop()
        if size % new[i]:
            return None
        result[i] = stride
        size //= new[i]
        stride *= new[i]
    too_large = any(s % _UNIT == 0 and s for s in result)  # a stride that depends on the symbol
    return None if size != 1 or chunks or too_large else tuple(result)


def _chunks(sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(elements, innermost stride) of the longest runs of dimensions that can be joined."""
    chunks: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if chunks and chunks[-1][1] == size * stride:
            chunks[-1] = (chunks[-1][0] * size, stride)
        else:
            chunks.append((size, stride))
    return chunks
