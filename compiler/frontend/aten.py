"""ATen → IR ops: one function per ATen operator, in a table.

A handler gets the importer and the call's arguments (graph values, numbers, lists) and
returns the result values. Dimensions become negative, scalars become constants, and
composite operators are spelled in the IR's own ops, so that this table is the only
place that knows ATen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

import torch

from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Dim, DType, Sym, divide, numel

FROM_TORCH = {t: d for d, t in ops.TORCH_DTYPE.items()} | {torch.float64: DType.F32}
Handler = Callable[..., Any]
ATEN: dict[str, Handler] = {}


class Builder(Protocol):
    """What handlers need of the importer."""

    def emit(self, op: ops.Op, *inputs: Value) -> Value: ...
    def emit_all(self, op: ops.Op, *inputs: Value) -> tuple[Value, ...]: ...
    def value(self, x: Any, like: Value | None = None) -> Value: ...
    def dims(self, shape: Sequence[Any]) -> tuple[Dim, ...]: ...


def aten(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for `aten::<name>` (with or without an overload)."""

    def register(handler: Handler) -> Handler:
        ATEN.update(dict.fromkeys(names, handler))
        return handler

    return register


def negative(dim: int, rank: int) -> int:
    return dim if dim < 0 else dim - rank


# ── elementwise ────────────────────────────────────────────────────────────────────────

_UNARY = {"abs", "bitwise_not", "ceil", "cos", "erf", "exp", "expm1", "floor", "hardswish",
          "hardsigmoid", "isfinite", "isinf", "isnan", "log", "log1p", "log2", "logical_not",
          "mish", "neg", "reciprocal", "relu", "round", "rsqrt", "selu", "sigmoid", "sign",
          "silu", "sin", "sqrt", "square", "tan", "tanh", "trunc"}  # fmt: skip
_BINARY = {"atan2": "atan2", "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or",
           "bitwise_xor": "bitwise_xor", "eq": "eq", "floor_divide": "floor_divide",
           "fmod": "fmod", "ge": "ge", "gt": "gt", "le": "le", "logical_and": "logical_and",
           "logical_or": "logical_or", "logical_xor": "logical_xor", "lt": "lt",
           "maximum": "maximum", "minimum": "minimum", "mul": "mul", "ne": "ne",
           "remainder": "remainder"}  # fmt: skip


def _unary(fn: str) -> Handler:
    return lambda b, x: b.emit(ops.Unary(fn), x)


def binary(b: Builder, fn: str, x: Any, y: Any) -> Value:
    """`fn(x, y)` where either may be a number."""
    x, y = b.value(x, y if isinstance(y, Value) else None), b.value(y, x)
    return b.emit(ops.Binary(fn), x, y)


def _binary(fn: str) -> Handler:
    return lambda b, x, y: binary(b, fn, x, y)


for _name in _UNARY:
    ATEN[_name] = _unary(_name)
for _name, _fn in _BINARY.items():
    ATEN[_name] = _binary(_fn)


@aten("add", "sub")
def _add(b: Builder, x: Any, y: Any, alpha: Any = 1, fn: str = "add") -> Value:
    return binary(b, fn, x, y if alpha == 1 else binary(b, "mul", y, alpha))


ATEN["sub"] = lambda b, x, y, alpha=1: _add(b, x, y, alpha, "sub")
ATEN["rsub"] = lambda b, x, y, alpha=1: _add(b, y, x, alpha, "sub")


@aten("div")
def _div(b: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return binary(b, "floor_divide", x, y)
    result = binary(b, "div", x, y)
    return b.emit(ops.Unary("trunc"), result) if rounding_mode == "trunc" else result


@aten("pow")
def _pow(b: Builder, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and not isinstance(y, Value):
        if y == 2:
            return b.emit(ops.Unary("square"), x)
        if y in (0.5, -0.5):
            return b.emit(ops.Unary("sqrt" if y > 0 else "rsqrt"), x)
    return binary(b, "pow", x, y)


@aten("gelu")
def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    return b.emit(ops.Unary("gelu_tanh" if approximate == "tanh" else "gelu"), x)


@aten("softplus")
def _softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = x if beta == 1 else binary(b, "mul", x, beta)
    y = b.emit(ops.Unary("softplus"), scaled)
    return y if beta == 1 else binary(b, "div", y, beta)


@aten("elu")
def _elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if (alpha, scale, input_scale) != (1, 1, 1):
        raise TypeError("elu with scales")
    return b.emit(ops.Unary("elu"), x)


@aten("leaky_relu")
def _leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    return b.emit(ops.Where(), binary(b, "gt", x, 0), x, binary(b, "mul", x, slope))


@aten("clamp", "clip", "clamp_min", "clamp_max", "hardtanh")
def _clamp(b: Builder, x: Value, min: Any = None, max: Any = None) -> Value:
    x = x if min is None else binary(b, "maximum", x, min)
    return x if max is None else binary(b, "minimum", x, max)


ATEN["clamp_max"] = lambda b, x, max: _clamp(b, x, None, max)


@aten("where")
def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    x, y = b.value(x, y if isinstance(y, Value) else None), b.value(y, x)
    return b.emit(ops.Where(), condition, x, y)


@aten("masked_fill")
def _masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    return b.emit(ops.Where(), mask, b.value(value, x), x)


# ── conversions and copies ─────────────────────────────────────────────────────────────


@aten("_to_copy", "to")
def _to_copy(b: Builder, x: Value, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    dtype = dtype or next((a for a in args if isinstance(a, torch.dtype)), None)
    return x if dtype is None else cast(b, x, FROM_TORCH[dtype])


def cast(b: Builder, x: Value, dtype: DType) -> Value:
    return x if x.type.dtype == dtype else b.emit(ops.Cast(dtype), x)


@aten("type_as")
def _type_as(b: Builder, x: Value, other: Value) -> Value:
    return cast(b, x, other.type.dtype)


@aten("alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "dropout",
      "_assert_tensor_metadata", "feature_dropout", "copy")  # fmt: skip
def _same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


ATEN["copy"] = lambda b, x, src, *_: cast(b, b.emit(ops.Expand(x.type.shape), src), x.type.dtype)


# ── shapes ─────────────────────────────────────────────────────────────────────────────


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """Reshape with at most one -1."""
    shape = list(shape)
    if -1 in shape:
        known = [d for d in shape if d != -1]
        shape[shape.index(-1)] = divide(numel(x.type.shape), numel(known))
    return x if tuple(shape) == x.type.shape else b.emit(ops.Reshape(tuple(shape)), x)


@aten("view", "reshape", "_unsafe_view", "_reshape_copy")
def _view(b: Builder, x: Value, shape: Sequence[Any]) -> Value:
    return reshape(b, x, b.dims(shape))


@aten("unsqueeze")
def _unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    shape = list(x.type.shape)
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, 1)
    return reshape(b, x, shape)


@aten("squeeze")
def _squeeze(b: Builder, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    rank = x.type.rank
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % rank for d in dims if x.type.shape[d] == 1}
    return reshape(b, x, [d for i, d in enumerate(x.type.shape) if i not in gone])


@aten("flatten")
def _flatten(b: Builder, x: Value, start: int = 0, end: int = -1) -> Value:
    shape, rank = x.type.shape, x.type.rank
    start, end = start % rank, end % rank
    return reshape(b, x, [*shape[:start], numel(shape[start : end + 1]), *shape[end + 1 :]])


@aten("unflatten")
def _unflatten(b: Builder, x: Value, dim: int, sizes: Sequence[Any]) -> Value:
    shape, dim = x.type.shape, dim % x.type.rank
    inner = list(b.dims(sizes))
    if -1 in inner:
        inner[inner.index(-1)] = divide(shape[dim], numel(d for d in inner if d != -1))
    return reshape(b, x, [*shape[:dim], *inner, *shape[dim + 1 :]])


@aten("permute")
def _permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    rank = x.type.rank
    return b.emit(ops.Permute(tuple(d % rank - rank for d in dims)), x)


@aten("transpose", "swapaxes", "t", "numpy_T", "mT")
def _transpose(b: Builder, x: Value, d0: int = -2, d1: int = -1) -> Value:
    dims = list(range(x.type.rank))
    dims[d0], dims[d1] = dims[d1], dims[d0]
    return _permute(b, x, dims)


@aten("expand")
def _expand(b: Builder, x: Value, shape: Sequence[Any], implicit: bool = False) -> Value:
    old = (1,) * (len(shape) - x.type.rank) + x.type.shape
    new = tuple(o if d == -1 else d for d, o in zip(b.dims(shape), old, strict=True))
    return x if new == x.type.shape else b.emit(ops.Expand(new), x)


@aten("expand_as")
def _expand_as(b: Builder, x: Value, other: Value) -> Value:
    return _expand(b, x, other.type.shape)


@aten("repeat")
def _repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    shape = (1,) * (len(repeats) - x.type.rank) + x.type.shape
    wide = [d for r, s in zip(repeats, shape, strict=True) for d in (r, s)]
    x = reshape(b, x, [d for s in shape for d in (1, s)])
    x = _expand(b, x, wide)
    return reshape(b, x, [_times(s, r) for r, s in zip(repeats, shape, strict=True)])


def _times(dim: Dim, by: int) -> Dim:
    return Sym(dim.name, dim.scale * by) if isinstance(dim, Sym) else dim * by


@aten("repeat_interleave")
def _repeat_interleave(
    b: Builder, x: Value, repeats: int, dim: int | None = None, **_: Any
) -> Value:
    if dim is None or not isinstance(repeats, int):
        raise TypeError("repeat_interleave by a tensor or over the flattened input")
    shape, dim = list(x.type.shape), dim % x.type.rank
    wide = reshape(b, x, [*shape[: dim + 1], 1, *shape[dim + 1 :]])
    wide = _expand(b, wide, [*shape[: dim + 1], repeats, *shape[dim + 1 :]])
    return reshape(b, wide, [*shape[:dim], _times(shape[dim], repeats), *shape[dim + 1 :]])


def slice_(b: Builder, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    size = x.type.shape[dim]
    if isinstance(size, Sym):
        if start == 0 and step == 1 and (isinstance(stop, Sym) or stop >= 2**31):
            return x
        raise TypeError("slices the token dimension")
    start = min(start if start >= 0 else max(start + size, 0), size)
    stop = max(min(stop if stop >= 0 else stop + size, size), start)
    if (start, stop, step) == (0, size, 1):
        return x
    return b.emit(ops.Slice(negative(dim, x.type.rank), start, stop, step), x)


@aten("slice")
def _slice(
    b: Builder, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    (stop,) = b.dims([2**62 if end is None else end])
    return slice_(b, x, dim, start or 0, stop, step)  # type: ignore[arg-type]


@aten("narrow")
def _narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    return slice_(b, x, dim, start, start + length)


@aten("select")
def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    rank, size = x.type.rank, x.type.shape[dim]
    if isinstance(size, Sym):
        raise TypeError("selects one token")
    index %= size
    y = slice_(b, x, dim, index, index + 1)
    return reshape(b, y, [d for i, d in enumerate(y.type.shape) if i != dim % rank])


@aten("split", "split_with_sizes", "unsafe_split", "chunk")
def _split(b: Builder, x: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    total = x.type.shape[dim]
    assert isinstance(total, int)
    if isinstance(sizes, int):
        sizes = [min(sizes, total - i) for i in range(0, total, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(slice_(b, x, dim, s, s + n) for s, n in zip(starts, sizes, strict=True))


ATEN["chunk"] = lambda b, x, n, dim=0: _split(b, x, -(-x.type.shape[dim] // n), dim)


@aten("unbind")
def _unbind(b: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    size = x.type.shape[dim]
    assert isinstance(size, int)
    return tuple(_select(b, x, dim, i) for i in range(size))


@aten("cat", "concat")
def _cat(b: Builder, xs: Sequence[Value], dim: int = 0) -> Value:
    xs = [x for x in xs if 0 not in x.type.shape] or xs[:1]
    return xs[0] if len(xs) == 1 else b.emit(ops.Concat(negative(dim, xs[0].type.rank)), *xs)


@aten("stack")
def _stack(b: Builder, xs: Sequence[Value], dim: int = 0) -> Value:
    dim = dim if dim >= 0 else dim + xs[0].type.rank + 1
    return _cat(b, [_unsqueeze(b, x, dim) for x in xs], dim)


@aten("constant_pad_nd", "pad")
def _pad(b: Builder, x: Value, pad: Sequence[int], *rest: Any) -> Value:
    value = next((r for r in rest if not isinstance(r, str) and r is not None), 0)
    for i in range(0, len(pad), 2):
        dim = -1 - i // 2
        parts: list[Value] = []
        for amount in (pad[i], pad[i + 1]):
            shape = list(x.type.shape)
            shape[dim] = max(amount, 0)
            parts.append(b.emit(ops.Full(tuple(shape)), b.value(value, x)))
        x = _cat(b, [parts[0], x, parts[1]], dim) if max(pad[i : i + 2]) > 0 else x
        if min(pad[i : i + 2]) < 0:
            raise TypeError("negative padding")
    return x


@aten("roll", "flip")
def _no_roll(b: Builder, x: Value, *_: Any) -> Value:
    raise TypeError("reorders elements in a way that is not supported")


# ── sources ────────────────────────────────────────────────────────────────────────────


@aten("arange")
def _arange(b: Builder, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    if not all(isinstance(a, int | float) for a in (start, end, step)):
        raise TypeError("a range over the tokens of the step")
    kind = FROM_TORCH[dtype] if dtype else DType.I64 if isinstance(end, int) else DType.F32
    y = b.emit(ops.Iota(int(-(-(end - start) // step)), DType.I64))
    y = y if step == 1 else binary(b, "mul", y, step)
    y = y if start == 0 else binary(b, "add", y, start)
    return cast(b, y, kind)


@aten("full", "full_like", "new_full")
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


for _name, _fill in {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0,
                     "new_zeros": 0.0, "new_ones": 1.0}.items():  # fmt: skip
    ATEN[_name] = _filled(_fill)


@aten("empty", "new_empty", "empty_like")
def _empty(b: Builder, *_: Any, **__: Any) -> None:
    """Uninitialised memory: nothing may read it (a mask tag's anchor does not)."""


@aten("scalar_tensor")
def _scalar_tensor(b: Builder, x: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    scalar = b.value(x)
    return cast(b, scalar, FROM_TORCH[dtype]) if dtype else scalar


# ── indexing ───────────────────────────────────────────────────────────────────────────


@aten("embedding")
def _embedding(b: Builder, table: Value, ids: Value, *_: Any, **__: Any) -> Value:
    return b.emit(ops.Embedding(), table, ids)


@aten("index_select")
def _index_select(b: Builder, x: Value, dim: int, index: Value) -> Value:
    return _index(b, x, [None] * (dim % x.type.rank) + [index])


@aten("index")
def _index(b: Builder, x: Value, indices: Sequence[Value | None]) -> Value:
    """One index tensor, over the first dimension (all others whole)."""
    (first, *rest) = indices
    if first is None or any(i is not None for i in rest) or isinstance(x.type.shape[0], Sym):
        raise TypeError("advanced indexing other than rows of a table")
    rows = x.type.shape[0]
    width = prod(d for d in x.type.shape[1:] if isinstance(d, int))
    if first.type.dtype == DType.BOOL:
        raise TypeError("indexing by a mask")
    first = b.emit(ops.Where(), binary(b, "lt", first, 0), binary(b, "add", first, rows), first)
    y = b.emit(ops.Embedding(), reshape(b, x, (rows, width)), first)
    return reshape(b, y, (*first.type.shape, *x.type.shape[1:]))


@aten("gather")
def _gather(b: Builder, x: Value, dim: int, index: Value, *_: Any, **__: Any) -> Value:
    return b.emit(ops.Gather(negative(dim, x.type.rank)), x, index)


@aten("scatter", "scatter_add")
def _scatter(b: Builder, x: Value, dim: int, index: Value, src: Any, accumulate: bool = False):
    return b.emit(ops.Scatter(negative(dim, x.type.rank), accumulate), x, index, b.value(src, x))


ATEN["scatter_add"] = lambda b, x, dim, index, src: _scatter(b, x, dim, index, src, True)


@aten("one_hot")
def _one_hot(b: Builder, x: Value, classes: int = -1) -> Value:
    wide = reshape(b, x, (*x.type.shape, 1))
    return cast(b, b.emit(ops.Binary("eq"), wide, b.emit(ops.Iota(classes))), DType.I64)


# ── reductions ─────────────────────────────────────────────────────────────────────────


def _reduce(fn: str) -> Handler:
    def handler(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, **kw: Any) -> Value:
        dims = (
            range(x.type.rank)
            if dim is None or dim == []
            else [dim]
            if isinstance(dim, int)
            else dim
        )
        if kw.get("dtype"):
            x = cast(b, x, FROM_TORCH[kw["dtype"]])
        return b.emit(ops.Reduce(fn, tuple(negative(d, x.type.rank) for d in dims), keepdim), x)

    return handler


for _fn in ("sum", "mean", "amax", "amin", "prod", "any", "all", "argmax"):
    ATEN[_fn] = _reduce(_fn)


@aten("max", "min")
def _max(b: Builder, x: Value, y: Any = None, keepdim: bool = False, fn: str = "max") -> Any:
    if isinstance(y, Value):
        return binary(b, f"{fn}imum", x, y)
    if y is None:
        return _reduce(f"a{fn}")(b, x)
    if fn == "min":
        raise TypeError("min with indices")
    values, index = _reduce("amax")(b, x, y, keepdim), _reduce("argmax")(b, x, y, keepdim)
    return values, index


ATEN["min"] = lambda b, x, y=None, keepdim=False: _max(b, x, y, keepdim, "min")


@aten("var", "std")
def _var(
    b: Builder, x: Value, dim: Any = None, *args: Any, keepdim: bool = False, **kw: Any
) -> Value:
    correction = kw.get("correction", args[0] if args else 1)
    keepdim = args[1] if len(args) > 1 else keepdim
    dims = [dim] if isinstance(dim, int) else list(dim)
    count = prod(x.type.shape[d] for d in dims)  # type: ignore[misc]
    mean = _reduce("mean")(b, x, dims, True)
    total = _reduce("sum")(b, b.emit(ops.Unary("square"), binary(b, "sub", x, mean)), dims, keepdim)
    return binary(b, "div", total, float(count - int(correction if correction is not None else 1)))


ATEN["std"] = lambda b, *args, **kw: b.emit(ops.Unary("sqrt"), _var(b, *args, **kw))


@aten("linalg_vector_norm", "norm")
def _norm(b: Builder, x: Value, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any):
    if order != 2:
        raise TypeError(f"vector norm of order {order}")
    total = _reduce("sum")(b, b.emit(ops.Unary("square"), x), dim, keepdim)
    return b.emit(ops.Unary("sqrt"), total)


@aten("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(b: Builder, x: Value, dim: int, dtype: Any = None, log: bool = False) -> Value:
    x = cast(b, x, FROM_TORCH[dtype]) if isinstance(dtype, torch.dtype) else x
    return b.emit(ops.Softmax(negative(dim, x.type.rank), log), x)


ATEN["log_softmax"] = ATEN["_log_softmax"] = lambda b, x, dim, dtype=None: _softmax(
    b, x, dim, dtype, True
)


@aten("cumsum")
def _cumsum(b: Builder, x: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    x = cast(b, x, FROM_TORCH[dtype]) if dtype else x
    return b.emit(ops.CumSum(negative(dim, x.type.rank)), x)


@aten("topk")
def _topk(
    b: Builder, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    if negative(dim, x.type.rank) != -1 or not largest:
        raise TypeError("topk of the smallest or along another dimension")
    return b.emit_all(ops.TopK(k), x)


@aten("sort", "argsort")
def _sort(b: Builder, x: Value, *args: Any, **kw: Any) -> tuple[Value, ...]:
    dim, descending = kw.get("dim", -1), kw.get("descending", False)
    for a in args:
        dim, descending = (dim, a) if isinstance(a, bool) else (a, descending)
    size = x.type.shape[-1]
    if negative(dim, x.type.rank) != -1 or not isinstance(size, int):
        raise TypeError("sort along another dimension")
    if descending:
        return b.emit_all(ops.TopK(size), x)
    values, index = b.emit_all(ops.TopK(size), b.emit(ops.Unary("neg"), x))
    return b.emit(ops.Unary("neg"), values), index


# ── products and norms ─────────────────────────────────────────────────────────────────


@aten("linear")
def _linear(b: Builder, x: Value, w: Value, bias: Value | None = None) -> Value:
    inputs = [x, w] if bias is None else [x, w, bias]
    return b.emit(ops.Linear(bias=bias is not None), *inputs)


@aten("addmm")
def _addmm(b: Builder, bias: Value, x: Value, w: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    if beta != 1 or alpha != 1:
        raise TypeError("addmm with scales")
    w = _transpose(b, w)
    return (
        b.emit(ops.Linear(bias=True), x, w, bias)
        if bias.type.rank == 1
        else binary(b, "add", b.emit(ops.Linear(), x, w), bias)
    )


@aten("mm", "bmm", "matmul")
def _matmul(b: Builder, x: Value, y: Value) -> Value:
    if y.type.rank == 2 and not y.type.is_symbolic:
        return b.emit(ops.Linear(), x, _transpose(b, y))
    return b.emit(ops.MatMul(), x, y)


@aten("layer_norm")
def _layer_norm(
    b: Builder, x: Value, shape: Sequence[int], w: Any = None, bias: Any = None,
    eps: float = 1e-5, *_: Any,
) -> Value:  # fmt: skip
    if len(shape) != 1:
        raise TypeError("layer_norm over several dimensions")
    inputs = [v for v in (x, w, bias) if v is not None]
    op = ops.Norm("layer_norm", eps, weight=w is not None, bias=bias is not None)
    return b.emit(op, *inputs)


@aten("rms_norm")
def _rms_norm(b: Builder, x: Value, shape: Sequence[int], w: Any = None, eps: Any = None) -> Value:
    if len(shape) != 1:
        raise TypeError("rms_norm over several dimensions")
    op = ops.Norm("rms_norm", torch.finfo().eps if eps is None else eps, weight=w is not None)
    return b.emit(op, *(v for v in (x, w) if v is not None))


@aten("group_norm", "native_group_norm", "native_layer_norm", "_native_batch_norm_legit")
def _no_norm(b: Builder, *_: Any) -> Value:
    raise TypeError("this normalization is not supported")
