"""ATen → IR: rows beyond the tokens, and shifts along the tokens.

The IR has rows of tokens only. Model code puts rows before the first one (padding, or a row that it
concatenates), convolves, and cuts off what is too much: `conv(pad(x))[..., :T]`. Between these
steps a tensor has other rows than there are tokens; here it is a `Shifted`, which says whose they
are. As soon as there is one for each token again, it is a value of the IR: the tokens' own rows, or
those of earlier tokens, which a convolution with weights 1, 0, … gives. Rows of later tokens are
refused, since a step doesn't have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...ir import ops
from ...ir.graph import Graph, Value
from ...ir.scalar import scalar_of
from ...ir.types import DType, Sym, TensorType, numel
from ...weights.recipes import Computed
from . import aten_elementwise
from .aten_base import Builder, Handler, Handlers, binary, negative, reshape
from .lengths import Length, parts_of

_FOLLOWING = 1 << 31
"""An end of a slice from here on is the end of the tensor."""


@dataclass(frozen=True)
class Shifted:
    """T + `more` rows along dimension `dim`, row i that of token `first` + i.

    `value` has the rows of tokens 0 to T - 1. What is before token 0 is `fill`, one row (None: 0);
    what is after token T - 1 is nobody's business.
    """

    value: Value
    dim: int
    first: int = 0
    more: int = 0
    fill: Value | None = None


HANDLERS = Handlers()
"""Operators with a `Shifted` argument, or that only make sense along the tokens."""


def shifted_handler(name: str) -> Handler | None:
    """The handler of `aten::<name>` with a `Shifted` argument; None if there is none."""
    if name in HANDLERS:
        return HANDLERS[name]
    if name in aten_elementwise.HANDLERS:
        return partial(_each, aten_elementwise.HANDLERS[name])
    return None


def is_shifted(argument: Any) -> bool:
    """Whether an argument of a call is a `Shifted`, or a list that holds one."""
    return isinstance(argument, Shifted) or (
        isinstance(argument, list) and any(map(is_shifted, argument))
    )


# ── what model code does with rows ──────────────────────────────────────────────────────────────


def pad_rows(b: Builder, x: Value | Shifted, dim: int, before: int, after: int) -> Value | Shifted:
    """`x` with rows of zeros along `dim`, or fewer rows where a number is negative."""
    rows = as_shifted(x, dim)
    if (before > 0 and (rows.first > 0 or rows.fill is not None)) or (
        after > 0 and rows.first + rows.more < 0
    ):
        raise TypeError("pads rows that were cut or padded before")
    return settled(b, replace(rows, first=rows.first - before, more=rows.more + before + after))


def slice_rows(b: Builder, x: Value | Shifted, dim: int, start: Any, stop: Any) -> Value | Shifted:
    """Rows `start` to `stop`: numbers, negative ones from the end, or in terms of T."""
    rows = as_shifted(x, dim)
    first, end = _place(start, rows.more), _place(stop, rows.more)
    if first is None or end is None or first[0] != 0 or first[1] < 0 or end[0] != 1:
        raise TypeError("slices the token dimension")
    count = min(end[1], rows.more) - first[1]
    return settled(b, replace(rows, first=rows.first + first[1], more=count))


def join_rows(b: Builder, parts: Sequence[Any], dim: int) -> Value | Shifted:
    """One row, or several of zeros, before the rows of tokens."""
    if len(parts) != 2 or is_shifted(parts[0]):
        raise TypeError("concatenates along the token dimension")
    head, rows = parts[0], as_shifted(parts[1], dim)
    count = head.type.shape[dim]
    zero = _is_zero(head)
    if not isinstance(count, int) or not (zero or count == 1) or rows.first or rows.fill:
        raise TypeError("concatenates along the token dimension")
    fill = None if zero else head
    return settled(b, replace(rows, first=-count, more=rows.more + count, fill=fill))


def _place(index: Any, more: int) -> tuple[int, int] | None:
    """(scale, offset) of a place among T + `more` rows, counted from their beginning."""
    if type(index) is int and index >= _FOLLOWING:
        return 1, more
    if not isinstance(index, int | Sym | Length):
        return None
    scale, offset = parts_of(index)
    if scale < 0 or (scale == 0 and offset < 0):
        return scale + 1, offset + more
    return scale, offset


def as_shifted(x: Value | Shifted, dim: int) -> Shifted:
    if isinstance(x, Value):
        dim = negative(dim, x.type.rank)
        size = x.type.shape[dim]
        if not isinstance(size, Sym) or size.scale != 1:
            raise TypeError(f"dimension {dim} of {x.type} is not that of the tokens")
        return Shifted(x, dim)
    if negative(dim, x.value.type.rank) != x.dim:
        raise TypeError("changes another dimension than that of the tokens")
    return x


def settled(b: Builder, rows: Shifted) -> Value | Shifted:
    """A value if there is a row for each token."""
    if rows.more != 0:
        return rows
    if rows.first > 0:
        raise TypeError(f"reads the row of a token that comes {rows.first} later")
    return _delayed(b, rows, -rows.first)


def _is_zero(value: Value) -> bool:
    """Whether all elements are 0, as far as the ops that made it say so."""
    node = value.producer
    if node is None:
        return scalar_of(value) == 0
    if isinstance(node.op, ops.Linear):
        return len(node.inputs) == 2 and _is_zero(node.inputs[0])
    plain = isinstance(node.op, ops.Full | ops.Reshape | ops.Expand | ops.Permute | ops.Cast)
    return plain and _is_zero(node.inputs[0])


# ── rows of earlier tokens ──────────────────────────────────────────────────────────────────────


def _delayed(b: Builder, rows: Shifted, by: int) -> Value:
    """For each token the row of the one `by` tokens earlier."""
    if by == 0:
        return rows.value
    if rows.fill is None:
        return _past(b, rows.value, rows.dim, by)
    past = _past(b, binary(b, "sub", rows.value, rows.fill), rows.dim, by)
    return binary(b, "add", past, rows.fill)


def _past(b: Builder, x: Value, dim: int, by: int) -> Value:
    """`_delayed` with zeros before the first token."""
    y, back = token_rows(b, x, dim)
    return back(past_rows(b, y, by))


def past_rows(b: Builder, x: Value, by: int) -> Value:
    """x [T, C] as it was `by` tokens earlier."""
    if by == 0:
        return x
    channels = x.type.shape[-1]
    assert isinstance(channels, int)
    weight = np.zeros((channels, by + 1), np.float32)
    weight[:, 0] = 1
    type = TensorType(DType.F32, weight.shape)
    constant = Graph.constant(f"delay_{by}", Computed.of(f"delay_{by}", weight), type)
    return b.emit(ops.CausalConv(), x, constant)


def token_rows(b: Builder, x: Value, dim: int) -> tuple[Value, Callable[[Value], Value]]:
    """x as [T, C], and what gives such rows the shape of x again."""
    rank = x.type.rank
    order = (dim, *(d for d in range(-rank, 0) if d != dim))
    back = tuple(order.index(d) - rank for d in range(-rank, 0))
    first = b.emit(ops.Permute(order), x)
    shape = first.type.shape
    flat = reshape(b, first, (shape[0], numel(shape[1:])))
    return flat, lambda y: b.emit(ops.Permute(back), reshape(b, y, shape))


def windows(b: Builder, rows: Shifted, size: int) -> list[Value]:
    """Of the `size` rows up to a token's own, each as a value; the oldest first."""
    last = -(rows.first + size - 1)
    if rows.more != size - 1 or last < 0:
        raise TypeError("windows that reach beyond their token")
    x = rows.value if rows.fill is None else binary(b, "sub", rows.value, rows.fill)
    y, back = token_rows(b, x, rows.dim)
    found = [past_rows(b, y, last)]
    while len(found) < size:
        found.append(past_rows(b, found[-1], 1))
    rows_of = [back(v) for v in reversed(found)]
    return rows_of if rows.fill is None else [binary(b, "add", r, rows.fill) for r in rows_of]


# ── operators ───────────────────────────────────────────────────────────────────────────────────


def _each(handler: Handler, b: Builder, *args: Any, **kwargs: Any) -> Shifted:
    """An elementwise operator with one tensor."""
    x = args[0]
    if not isinstance(x, Shifted) or any(isinstance(a, Value | Shifted) for a in args[1:]):
        raise TypeError("computes with rows that are not those of the tokens")
    zero = b.emit(ops.Full((1,) * x.value.type.rank), b.value(0.0))
    fill = handler(b, x.fill or zero, *args[1:], **kwargs)
    return replace(x, value=handler(b, x.value, *args[1:], **kwargs), fill=fill)


@HANDLERS.of("clone", "contiguous", "alias", "detach")
def _same(b: Builder, x: Shifted, *_: Any, **__: Any) -> Shifted:
    return x


@HANDLERS.of("permute")
def _permute(b: Builder, x: Shifted, dims: Sequence[int]) -> Shifted:
    rank = x.value.type.rank
    order = tuple(negative(d, rank) for d in dims)
    made = [v and b.emit(ops.Permute(order), v) for v in (x.value, x.fill)]
    assert made[0] is not None
    return replace(x, value=made[0], fill=made[1], dim=order.index(x.dim) - rank)


@HANDLERS.of("transpose", "swapaxes")
def _transpose(b: Builder, x: Shifted, d0: int, d1: int) -> Shifted:
    dims = list(range(x.value.type.rank))
    dims[d0], dims[d1] = dims[d1], dims[d0]
    return _permute(b, x, dims)


@HANDLERS.of("slice")
def _slice(
    b: Builder, x: Shifted, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value | Shifted:
    if step != 1:
        raise TypeError("takes every other row of the tokens")
    return slice_rows(b, x, dim, start or 0, _FOLLOWING if end is None else end)


@HANDLERS.of("constant_pad_nd", "pad")
def _pad(b: Builder, x: Shifted, pad: Sequence[int], *rest: Any) -> Value | Shifted:
    place = 2 * (-1 - x.dim)
    others = [*pad[:place], *pad[place + 2 :]]
    if any(others) or any(r not in (None, 0, 0.0, "constant") for r in rest):
        raise TypeError("pads more than rows of zeros")
    amounts = pad[place : place + 2]
    return pad_rows(b, x, x.dim, *amounts) if amounts else x


@HANDLERS.of("cat", "concat", "concatenate")
def _cat(b: Builder, xs: Sequence[Any], dim: int = 0) -> Value | Shifted:
    return join_rows(b, xs, dim)


@HANDLERS.of("unfold")
def _unfold(b: Builder, x: Any, dim: int, size: int, step: int) -> Value:
    """Of each token the rows of the last `size` ones, along a new last dimension."""
    if step != 1:
        raise TypeError("windows that are more than a token apart")
    found = windows(b, as_shifted(x, dim), size)
    return b.emit(ops.Concat(-1), *(reshape(b, w, (*w.type.shape, 1)) for w in found))
