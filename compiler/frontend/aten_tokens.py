"""Ranges, slices and running sums along the tokens, as the arithmetic of positions that they are.

    arange(T)            =>  positions
    table[a : a + T]     =>  embedding(table, positions + a)
    ones(T).cumsum(0)    =>  positions + 1
    tril(scores)         =>  where(key position <= query position, scores, 0)

The trace is one sequence from its first token, so its token i stands at position i. A step that
packs several sequences with a past brings positions, and each token finds what the trace gave it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import ops
from ...ir.graph import Value
from ...ir.recipe import Computed
from ...ir.scalar import scalar, scalar_of
from ...ir.types import Dim, DType, Sym, T, volume
from .aten_base import Builder, Handlers, binary, cast, reshape
from .lengths import Length, Number, minus, parts_of

HANDLERS = Handlers()


def is_by_length(*numbers: Any) -> bool:
    """Whether one of the numbers depends on the number of tokens."""
    return any(isinstance(n, Sym | Length) for n in numbers)


def token_range(b: Builder, start: Number, end: Number) -> Value:
    """i64[T], `start` and what follows up to `end`.

    Raises:
        TypeError: it doesn't have one entry for each token.
    """
    if minus(end, start) != T:
        raise TypeError("a range that isn't as long as the step")
    return _shifted(b, start)


def _shifted(b: Builder, start: Number) -> Value:
    """The positions plus `start`."""
    scale, offset = parts_of(start)
    index = b.positions()
    if scale:
        count = b.emit(ops.TokenCount())
        index = binary(b, "add", index, count if scale == 1 else binary(b, "mul", count, scale))
    return index if offset == 0 else binary(b, "add", index, offset)


def token_rows(b: Builder, x: Value, dim: int, start: Number, stop: Number) -> Value:
    """The slice of x along `dim`, of a fixed size, that has one entry for each token.

    Raises:
        TypeError: it has fewer or more.
    """
    if minus(stop, start) != T:
        raise TypeError("slices as many entries as a number that isn't the step's")
    rank, dim = x.type.rank, dim % x.type.rank
    shape = [*x.type.shape]
    if _is_same_everywhere(x, dim):
        shape[dim] = T
        one = b.emit(ops.Slice(dim - rank, 0, 1), x)
        return b.emit(ops.Expand(tuple(shape)), one)
    first = (dim, *(d for d in range(rank) if d != dim))
    back = [first.index(d) for d in range(rank)]
    rest = [shape[d] for d in first[1:]]
    table = reshape(b, _permuted(b, x, first), [shape[dim], _product(rest)])
    rows = b.emit(ops.Embedding(), table, _shifted(b, start))
    return _permuted(b, reshape(b, rows, [T, *rest]), back)


def _permuted(b: Builder, x: Value, dims: Any) -> Value:
    dims = tuple(d - x.type.rank for d in dims)
    return x if dims == tuple(range(-x.type.rank, 0)) else b.emit(ops.Permute(dims), x)


def _product(shape: list[Dim]) -> Dim:
    factor, symbols = volume(shape)
    if len(symbols) > 1:
        raise TypeError("slices a table of tokens by tokens")
    return Sym(symbols[0], factor) if symbols else factor


def _is_same_everywhere(x: Value, dim: int) -> bool:
    """Whether a constant's entries along `dim` are known to be equal."""
    if not isinstance(x.recipe, Computed):
        return False
    return bool((x.recipe.value == np.take(x.recipe.value, [0], dim)).all())


def running_sum(b: Builder, x: Value, dim: int) -> Value:
    """The sum of x over the tokens up to each, where x is the same for all of them.

    Raises:
        TypeError: x differs from token to token.
    """
    if not _is_uniform(x):
        raise TypeError("sums over the tokens up to each")
    ones = [1] * (x.type.rank - 1 - dim % x.type.rank)
    count = reshape(b, binary(b, "add", b.positions(), 1), [T, *ones])
    y = binary(b, "mul", x, count)
    return y if x.type.dtype.is_float else cast(b, y, DType.I64)


def _is_uniform(x: Value) -> bool:
    """Whether x is one number in all places."""
    node = x.producer
    if node is None:
        return scalar_of(x) is not None
    if isinstance(node.op, ops.Full | ops.Expand | ops.Reshape | ops.Cast):
        return _is_uniform(node.inputs[0])
    return False


@HANDLERS.of("tril", "triu")
def _triangle(b: Builder, x: Value, diagonal: int = 0, compare: str = "le") -> Value:
    """x where its column is at most (`le`) or at least (`ge`) its row plus `diagonal`, else 0."""
    row, column = (_places(b, d) for d in x.type.shape[-2:])
    bound = reshape(b, binary(b, "add", row, diagonal) if diagonal else row, [row.type.shape[0], 1])
    kept = binary(b, compare, reshape(b, column, [1, column.type.shape[0]]), bound)
    return b.emit(ops.Where(), kept, x, cast(b, scalar(0), x.type.dtype))


HANDLERS["triu"] = lambda b, x, diagonal=0: _triangle(b, x, diagonal, "ge")


def _places(b: Builder, size: Dim) -> Value:
    """0, 1, … along a dimension."""
    return b.positions() if size == T else b.emit(ops.Iota(size))  # type: ignore[arg-type]
