"""ATen → IR: tensors made from numbers, and look-ups by index."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ...ir import ops
from ...ir.graph import Value
from ...ir.recipe import Computed
from ...ir.roles import StepArray
from ...ir.types import DType, Sym
from .aten_base import FROM_TORCH, Builder, Handler, Handlers, binary, cast, negative, reshape
from .aten_shape import slice_
from .aten_tokens import is_by_length, token_range

HANDLERS = Handlers()


@HANDLERS.of("arange")
def _arange(b: Builder, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    if is_by_length(start, end) and step == 1:
        return cast(b, token_range(b, start, end), FROM_TORCH[dtype] if dtype else DType.I64)
    if not all(isinstance(a, int | float) for a in (start, end, step)):
        raise TypeError("a range over the tokens of the step")
    whole = all(isinstance(a, int) for a in (start, end, step))
    kind = FROM_TORCH[dtype] if dtype else DType.I64 if whole else DType.F32
    y = b.emit(ops.Iota(int(-(-(end - start) // step)), DType.I64))
    y = y if step == 1 else binary(b, "mul", y, step)
    y = y if start == 0 else binary(b, "add", y, start)
    return cast(b, y, kind)


@HANDLERS.of("full", "full_like", "new_full")
def _full(b: Builder, like: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    value = args[-1]
    shape = like.type.shape if isinstance(like, Value) else b.dims(like)
    shape = b.dims(args[0]) if len(args) == 2 else shape
    kind = FROM_TORCH[dtype] if dtype else like.type.dtype if isinstance(like, Value) else None
    scalar = b.value(value)
    return b.emit(ops.Full(shape), cast(b, scalar, kind or scalar.type.dtype))


def _filled(value: float) -> Handler:
    def handler(b: Builder, like: Any, *shape: Any, dtype: torch.dtype | None = None, **_: Any):
        return _full(b, like, *shape, value, dtype=dtype or _default_dtype(like))

    return handler


def _default_dtype(like: Any) -> torch.dtype | None:
    return None if isinstance(like, Value) else torch.float32


# Uninitialised memory is 0: models write all of it before they read it.
for _name, _fill in {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0,
                     "new_zeros": 0.0, "new_ones": 1.0, "empty": 0.0, "new_empty": 0.0,
                     "empty_like": 0.0}.items():  # fmt: skip
    HANDLERS[_name] = _filled(_fill)


@HANDLERS.of("scalar_tensor")
def _scalar_tensor(b: Builder, x: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    scalar = b.value(x)
    return cast(b, scalar, FROM_TORCH[dtype] if dtype else DType.F32)


@HANDLERS.of("embedding")
def _embedding(b: Builder, table: Value, ids: Value, padding: int = -1, *_: Any) -> Value:
    """A table of positions that has a row for padding has text begin behind that row.

    So does fairseq, and who leaves positions to the model gets that (`forward(input_ids)`); given
    0, 1, 2, … as they are, it would read rows that training never used.
    """
    if padding >= 0 and ids.role == StepArray.POSITIONS:
        ids = binary(b, "add", ids, padding + 1)
    return b.emit(ops.Embedding(), table, ids)


@HANDLERS.of("index_select")
def _index_select(b: Builder, x: Value, dim: int, index: Value) -> Value:
    return _index(b, x, [None] * (dim % x.type.rank) + [index])


@HANDLERS.of("index")
def _index(b: Builder, x: Value, indices: Sequence[Value | None]) -> Value:
    """One index tensor, over the first dimension or with numbers that are known (others whole)."""
    (first, *rest) = indices
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if first is None and len(given) == 1:
        return _picked(b, x, *given[0])
    if first is None or any(i is not None for i in rest) or isinstance(x.type.shape[0], Sym):
        raise TypeError("advanced indexing other than rows of a table")
    rows = x.type.shape[0]
    width = prod(d for d in x.type.shape[1:] if isinstance(d, int))
    if first.type.dtype == DType.BOOL:
        raise TypeError("indexing by a mask")
    first = b.emit(ops.Where(), binary(b, "lt", first, 0), binary(b, "add", first, rows), first)
    y = b.emit(ops.Embedding(), reshape(b, x, (rows, width)), first)
    return reshape(b, y, (*first.type.shape, *x.type.shape[1:]))


def _picked(b: Builder, x: Value, dim: int, index: Value) -> Value:
    """The entries of x along `dim` that a list of numbers names."""
    size = x.type.shape[dim]
    is_list = isinstance(index.recipe, Computed) and index.type.rank == 1
    if not is_list or index.type.dtype == DType.BOOL or isinstance(size, Sym):
        raise TypeError("advanced indexing other than rows of a table")
    places = [int(i) % size for i in index.recipe.value]  # type: ignore[union-attr]
    if places == list(range(places[0], places[0] + len(places))):
        return slice_(b, x, dim, places[0], places[-1] + 1)
    parts = [slice_(b, x, dim, place, place + 1) for place in places]
    return b.emit(ops.Concat(negative(dim, x.type.rank)), *parts)


@HANDLERS.of("gather")
def _gather(b: Builder, x: Value, dim: int, index: Value, *_: Any, **__: Any) -> Value:
    return b.emit(ops.Gather(negative(dim, x.type.rank)), x, index)


@HANDLERS.of("scatter", "scatter_add")
def _scatter(b: Builder, x: Value, dim: int, index: Value, src: Any, accumulate: bool = False):
    return b.emit(ops.Scatter(negative(dim, x.type.rank), accumulate), x, index, b.value(src, x))


HANDLERS["scatter_add"] = lambda b, x, dim, index, src: _scatter(b, x, dim, index, src, True)


@HANDLERS.of("one_hot")
def _one_hot(b: Builder, x: Value, classes: int = -1) -> Value:
    if classes < 0:
        raise TypeError("one_hot with as many classes as the values need")
    wide = reshape(b, x, (*x.type.shape, 1))
    return cast(b, b.emit(ops.Binary("eq"), wide, b.emit(ops.Iota(classes))), DType.I64)
