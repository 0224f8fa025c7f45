"""ATen → IR: reductions, sorting, matrix products and norms."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Sym
from .aten_base import FROM_TORCH, Builder, Handler, Handlers, binary, cast, negative
from .aten_shape import transpose
from .aten_tokens import running_sum

HANDLERS = Handlers()


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
        if fn == "argmax" and len(dims) > 1:
            raise TypeError("argmax over several dimensions")
        return b.emit(ops.Reduce(fn, tuple(negative(d, x.type.rank) for d in dims), keepdim), x)

    return handler


for _fn in ("sum", "mean", "amax", "amin", "prod", "any", "all", "argmax"):
    HANDLERS[_fn] = _reduce(_fn)


@HANDLERS.of("max", "min")
def _max(b: Builder, x: Value, y: Any = None, keepdim: bool = False, fn: str = "max") -> Any:
    if isinstance(y, Value):
        return binary(b, f"{fn}imum", x, y)
    if y is None:
        return _reduce(f"a{fn}")(b, x)
    if fn == "min":
        raise TypeError("min with indices")
    values, index = _reduce("amax")(b, x, y, keepdim), _reduce("argmax")(b, x, y, keepdim)
    return values, index


HANDLERS["min"] = lambda b, x, y=None, keepdim=False: _max(b, x, y, keepdim, "min")


@HANDLERS.of("var", "std")
def _var(
    b: Builder, x: Value, dim: Any = None, *args: Any, keepdim: bool = False, **kw: Any
) -> Value:
    correction = kw.get("correction", args[0] if args else 1)
    keepdim = args[1] if len(args) > 1 else keepdim
    if dim is None or isinstance(dim, bool):
        raise TypeError("variance over all dimensions")
    dims = [dim] if isinstance(dim, int) else list(dim)
    count = prod(x.type.shape[d] for d in dims)  # type: ignore[misc]
    mean = _reduce("mean")(b, x, dims, True)
    total = _reduce("sum")(b, b.emit(ops.Unary("square"), binary(b, "sub", x, mean)), dims, keepdim)
    return binary(b, "div", total, float(count - int(correction if correction is not None else 1)))


HANDLERS["std"] = lambda b, *args, **kw: b.emit(ops.Unary("sqrt"), _var(b, *args, **kw))


@HANDLERS.of("linalg_vector_norm", "norm")
def _norm(b: Builder, x: Value, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any):
    if order != 2:
        raise TypeError(f"vector norm of order {order}")
    total = _reduce("sum")(b, b.emit(ops.Unary("square"), x), dim, keepdim)
    return b.emit(ops.Unary("sqrt"), total)


@HANDLERS.of("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(b: Builder, x: Value, dim: int, dtype: Any = None, log: bool = False) -> Value:
    x = cast(b, x, FROM_TORCH[dtype]) if isinstance(dtype, torch.dtype) else x
    return b.emit(ops.Softmax(negative(dim, x.type.rank), log), x)


HANDLERS["log_softmax"] = HANDLERS["_log_softmax"] = lambda b, x, dim, dtype=None: _softmax(
    b, x, dim, dtype, True
)


@HANDLERS.of("cumsum")
def _cumsum(b: Builder, x: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    x = cast(b, x, FROM_TORCH[dtype]) if dtype else x
    if isinstance(x.type.shape[dim], Sym):
        return running_sum(b, x, dim)
    return b.emit(ops.CumSum(negative(dim, x.type.rank)), x)


@HANDLERS.of("topk")
def _topk(
    b: Builder, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    if negative(dim, x.type.rank) != -1 or not largest:
        raise TypeError("topk of the smallest or along another dimension")
    return b.emit_all(ops.TopK(k), x)


@HANDLERS.of("sort")
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


HANDLERS["argsort"] = lambda b, *args, **kw: _sort(b, *args, **kw)[1]


@HANDLERS.of("linear")
def _linear(b: Builder, x: Value, w: Value, bias: Value | None = None) -> Value:
    inputs = [x, w] if bias is None else [x, w, bias]
    return b.emit(ops.Linear(bias=bias is not None), *inputs)


@HANDLERS.of("addmm")
def _addmm(b: Builder, bias: Value, x: Value, w: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    if beta != 1 or alpha != 1:
        raise TypeError("addmm with scales")
    w = transpose(b, w)
    return (
        b.emit(ops.Linear(bias=True), x, w, bias)
        if bias.type.rank == 1
        else binary(b, "add", b.emit(ops.Linear(), x, w), bias)
    )


@HANDLERS.of("mm", "bmm", "matmul")
def _matmul(b: Builder, x: Value, y: Value) -> Value:
    if y.type.rank == 2 and not y.type.is_symbolic:
        return b.emit(ops.Linear(), x, transpose(b, y))
    if x.type.rank == 2 and x.is_constant and y.type.rank >= 2:
        return transpose(b, b.emit(ops.Linear(), transpose(b, y), x))
    return b.emit(ops.MatMul(), x, y)


@HANDLERS.of("baddbmm")
def _baddbmm(b: Builder, bias: Value, x: Value, y: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    product = b.emit(ops.MatMul(), x, y)
    product = product if alpha == 1 else binary(b, "mul", product, alpha)
    if beta == 0:  # then torch ignores the bias, whatever it holds
        return product
    return binary(b, "add", product, bias if beta == 1 else binary(b, "mul", bias, beta))


@HANDLERS.of("layer_norm")
def _layer_norm(
    b: Builder, x: Value, shape: Sequence[int], w: Any = None, bias: Any = None,
    eps: float = 1e-5, *_: Any,
) -> Value:  # fmt: skip
    if len(shape) != 1:
        raise TypeError("layer_norm over several dimensions")
    inputs = [v for v in (x, w, bias) if v is not None]
    op = ops.Norm("layer_norm", eps, weight=w is not None, bias=bias is not None)
    return b.emit(op, *inputs)


@HANDLERS.of("rms_norm")
def _rms_norm(b: Builder, x: Value, shape: Sequence[int], w: Any = None, eps: Any = None) -> Value:
    if len(shape) != 1:
        raise TypeError("rms_norm over several dimensions")
    op = ops.Norm("rms_norm", torch.finfo().eps if eps is None else eps, weight=w is not None)
    return b.emit(op, *(v for v in (x, w) if v is not None))


@HANDLERS.of("group_norm", "native_group_norm", "native_layer_norm", "_native_batch_norm_legit")
def _no_norm(b: Builder, *_: Any) -> Value:
    raise TypeError("this normalization is not supported")
