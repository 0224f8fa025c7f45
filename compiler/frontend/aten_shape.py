"""ATen → IR: views, slices, concatenation and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Dim, Sym, numel
from .aten_base import Builder, Handlers, cast, missing, negative, reshape
from .aten_tokens import is_by_length, token_rows
from .shifted_rows import Shifted, join_rows, pad_rows, slice_rows

HANDLERS = Handlers()


@HANDLERS.of("view", "reshape", "_unsafe_view", "_reshape_copy")
def _view(b: Builder, x: Value, shape: Sequence[Any]) -> Value:
    return reshape(b, x, b.dims(shape))


@HANDLERS.of("view_as", "reshape_as")
def _view_as(b: Builder, x: Value, other: Value) -> Value:
    return reshape(b, x, other.type.shape)


@HANDLERS.of("unsqueeze")
def _unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    shape = list(x.type.shape)
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, 1)
    return reshape(b, x, shape)


@HANDLERS.of("squeeze")
def _squeeze(b: Builder, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    rank = x.type.rank
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % rank for d in dims if x.type.shape[d] == 1}
    return reshape(b, x, [d for i, d in enumerate(x.type.shape) if i not in gone])


@HANDLERS.of("flatten")
def _flatten(b: Builder, x: Value, start: int = 0, end: int = -1) -> Value:
    shape, rank = x.type.shape, x.type.rank
    start, end = start % rank, end % rank
    return reshape(b, x, [*shape[:start], numel(shape[start : end + 1]), *shape[end + 1 :]])


@HANDLERS.of("unflatten")
def _unflatten(b: Builder, x: Value, dim: int, sizes: Sequence[Any]) -> Value:
    shape, dim = x.type.shape, dim % x.type.rank
    inner = list(b.dims(sizes))
    if -1 in inner:
        inner[inner.index(-1)] = missing([shape[dim]], [d for d in inner if d != -1])
    return reshape(b, x, [*shape[:dim], *inner, *shape[dim + 1 :]])


@HANDLERS.of("permute")
def _permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    rank = x.type.rank
    return b.emit(ops.Permute(tuple(d % rank - rank for d in dims)), x)


@HANDLERS.of("transpose", "swapaxes", "t", "numpy_T", "mT")
def transpose(b: Builder, x: Value, d0: int = -2, d1: int = -1) -> Value:
    dims = list(range(x.type.rank))
    dims[d0], dims[d1] = dims[d1], dims[d0]
    return _permute(b, x, dims)


@HANDLERS.of("expand")
def _expand(b: Builder, x: Value, shape: Sequence[Any], implicit: bool = False) -> Value:
    old = (1,) * (len(shape) - x.type.rank) + x.type.shape
    new = tuple(o if d == -1 else d for d, o in zip(b.dims(shape), old, strict=True))
    return x if new == x.type.shape else b.emit(ops.Expand(new), x)


@HANDLERS.of("expand_as")
def _expand_as(b: Builder, x: Value, other: Value) -> Value:
    return _expand(b, x, other.type.shape)


@HANDLERS.of("repeat")
def _repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    shape = (1,) * (len(repeats) - x.type.rank) + x.type.shape
    wide = [d for r, s in zip(repeats, shape, strict=True) for d in (r, s)]
    x = reshape(b, x, [d for s in shape for d in (1, s)])
    x = _expand(b, x, wide)
    return reshape(b, x, [_times(s, r) for r, s in zip(repeats, shape, strict=True)])


def _times(dim: Dim, by: int) -> Dim:
    return Sym(dim.name, dim.scale * by) if isinstance(dim, Sym) else dim * by


@HANDLERS.of("repeat_interleave")
def _repeat_interleave(
    b: Builder, x: Value, repeats: int, dim: int | None = None, **_: Any
) -> Value:
    if dim is None or not isinstance(repeats, int):
        raise TypeError("repeat_interleave by a tensor or over the flattened input")
    shape, dim = list(x.type.shape), dim % x.type.rank
    wide = reshape(b, x, [*shape[: dim + 1], 1, *shape[dim + 1 :]])
    wide = _expand(b, wide, [*shape[: dim + 1], repeats, *shape[dim + 1 :]])
    return reshape(b, wide, [*shape[:dim], _times(shape[dim], repeats), *shape[dim + 1 :]])


def slice_(b: Builder, x: Value, dim: int, start: Any, stop: Any, step: int = 1) -> Value:
    size = x.type.shape[dim]
    if isinstance(size, int) and is_by_length(start, stop):
        if step != 1:
            raise TypeError("slices some of the tokens")
        stop = min(stop, size) if isinstance(stop, int) else stop
        return token_rows(b, x, dim, start, stop)
    if isinstance(size, Sym):
        raise TypeError("slices the token dimension")
    start = min(start if start >= 0 else max(start + size, 0), size)
    stop = max(min(stop if stop >= 0 else stop + size, size), start)
    if (start, stop, step) == (0, size, 1):
        return x
    return b.emit(ops.Slice(negative(dim, x.type.rank), start, stop, step), x)


@HANDLERS.of("slice")
def _slice(
    b: Builder, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value | Shifted:
    start, stop = start or 0, 2**62 if end is None else end
    if isinstance(x.type.shape[dim], Sym) and step == 1:
        return slice_rows(b, x, dim, start, stop)
    return slice_(b, x, dim, start, stop, step)


@HANDLERS.of("narrow")
def _narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    return slice_(b, x, dim, start, start + length)


@HANDLERS.of("select")
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    rank, size = x.type.rank, x.type.shape[dim]
    if isinstance(size, Sym):
        raise TypeError("selects one token")
    index %= size
    y = slice_(b, x, dim, index, index + 1)
    return reshape(b, y, [d for i, d in enumerate(y.type.shape) if i != dim % rank])


@HANDLERS.of("slice_scatter")
def _slice_scatter(
    b: Builder, x: Value, src: Value, dim: int = 0, start: Any = None, end: Any = None,
    step: int = 1,
) -> Value:  # fmt: skip
    """`x` with `src` in place of one of its slices."""
    size, width = x.type.shape[dim], src.type.shape[dim]
    src = cast(b, src, x.type.dtype)
    if size == width:
        return src
    if width == 0:
        return x
    if not isinstance(size, int) or not isinstance(width, int):
        raise TypeError("writes some of the tokens")
    first = start or 0
    first = min(first if first >= 0 else max(first + size, 0), size)
    if step != 1:
        return _scattered(b, x, src, dim % x.type.rank, range(first, first + width * step, step))
    parts = [slice_(b, x, dim, 0, first), src, slice_(b, x, dim, first + width, size)]
    return _cat(b, [p for p in parts if p.type.shape[dim] != 0], dim)


def _scattered(b: Builder, x: Value, src: Value, dim: int, places: range) -> Value:
    """`x` with the entries of `src` at `places` along `dim`, and its own between them."""
    size, step = x.type.shape[dim], places.step
    before, after = x.type.shape[:dim], x.type.shape[dim + 1 :]
    whole, last = len(places) - 1, places[-1]  # places that are followed by step - 1 others
    rows = reshape(b, slice_(b, x, dim, places[0], last), [*before, whole, step, *after])
    first = _unsqueeze(b, slice_(b, src, dim, 0, whole), dim + 1)
    rows = _cat(b, [first, slice_(b, rows, dim + 1, 1, step)], dim + 1)
    parts = [
        slice_(b, x, dim, 0, places[0]),
        reshape(b, rows, [*before, whole * step, *after]),
        slice_(b, src, dim, whole, whole + 1),
        slice_(b, x, dim, last + 1, size),  # type: ignore[arg-type]
    ]
    return _cat(b, [p for p in parts if p.type.shape[dim] != 0], dim)


@HANDLERS.of("select_scatter")
def _select_scatter(b: Builder, x: Value, src: Value, dim: int, index: int) -> Value:
    """`x` with `src` in place of entry `index` along `dim`."""
    size = x.type.shape[dim]
    if not isinstance(size, int):
        raise TypeError("writes one token")
    src = _unsqueeze(b, src, dim % x.type.rank)
    return _slice_scatter(b, x, src, dim, index % size, index % size + 1)


@HANDLERS.of("split", "split_with_sizes", "unsafe_split", "chunk")
def _split(b: Builder, x: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    total = x.type.shape[dim]
    assert isinstance(total, int)
    if isinstance(sizes, int):
        sizes = [min(sizes, total - i) for i in range(0, total, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(slice_(b, x, dim, s, s + n) for s, n in zip(starts, sizes, strict=True))


HANDLERS["chunk"] = lambda b, x, n, dim=0: _split(b, x, -(-x.type.shape[dim] // n), dim)


@HANDLERS.of("unbind")
def _unbind(b: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    size = x.type.shape[dim]
    assert isinstance(size, int)
    return tuple(_select(b, x, dim, i) for i in range(size))


@HANDLERS.of("cat", "concat", "concatenate")
def _cat(b: Builder, xs: Sequence[Value], dim: int = 0) -> Any:
    if any(isinstance(x.type.shape[dim], Sym) for x in xs):
        return join_rows(b, xs, dim)
    xs = [x for x in xs if 0 not in x.type.shape] or xs[:1]
    return xs[0] if len(xs) == 1 else b.emit(ops.Concat(negative(dim, xs[0].type.rank)), *xs)


@HANDLERS.of("stack")
def _stack(b: Builder, xs: Sequence[Value], dim: int = 0) -> Value:
    dim = dim if dim >= 0 else dim + xs[0].type.rank + 1
    return _cat(b, [_unsqueeze(b, x, dim) for x in xs], dim)


@HANDLERS.of("constant_pad_nd", "pad")
def _pad(b: Builder, x: Value, pad: Sequence[int], *rest: Any) -> Value | Shifted:
    value = next((r for r in rest if not isinstance(r, str) and r is not None), 0)
    rows: list[tuple[int, int, int]] = []
    for i in range(0, len(pad), 2):
        dim, before, after = -1 - i // 2, pad[i], pad[i + 1]
        if isinstance(x.type.shape[dim], Sym) and (before or after):
            rows.append((dim, before, after))
            continue
        if min(before, after) < 0:
            raise TypeError("negative padding")
        shape, filler = list(x.type.shape), b.value(value, x)
        parts = [x]
        for place, amount in ((0, before), (2, after)):
            shape[dim] = amount
            parts[place:place] = [b.emit(ops.Full(tuple(shape)), filler)] if amount else []
        x = _cat(b, parts, dim)
    if len(rows) > 1 or (rows and value != 0):
        raise TypeError("pads the tokens with something else than zeros")
    return pad_rows(b, x, *rows[0]) if rows else x


@HANDLERS.of("flip")
def _flip(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        size = x.type.shape[dim]
        if not isinstance(size, int):
            raise TypeError("reverses the order of tokens")
        x = _cat(b, [slice_(b, x, dim, i, i + 1) for i in reversed(range(size))], dim)
    return x


@HANDLERS.of("roll")
def _no_roll(b: Builder, x: Value, *_: Any) -> Value:
    raise TypeError("reorders elements in a way that is not supported")
