"""ATen → IR: elementwise operators, conversions and copies."""

from __future__ import annotations

from typing import Any

import torch

from ...ir import ops
from ...ir.graph import Value
from .aten_base import FROM_TORCH, Builder, Handler, Handlers, binary, cast

HANDLERS = Handlers()


_UNARY = {"abs", "bitwise_not", "ceil", "cos", "erf", "exp", "expm1", "floor", "hardswish",
          "hardsigmoid", "isfinite", "isinf", "isnan", "log", "log1p", "log2", "logical_not",
          "mish", "neg", "reciprocal", "relu", "round", "rsqrt", "selu", "sigmoid", "sign",
          "silu", "sin", "sqrt", "square", "tan", "tanh", "trunc"}  # fmt: skip
_ALIASES = {"absolute": "abs", "negative": "neg", "multiply": "mul", "divide": "div",
            "true_divide": "div", "subtract": "sub", "greater": "gt", "greater_equal": "ge",
            "less": "lt", "less_equal": "le", "not_equal": "ne"}  # fmt: skip
"""Operators that are another one by another name."""
_BINARY = {"atan2": "atan2", "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or",
           "bitwise_xor": "bitwise_xor", "__and__": "bitwise_and", "__or__": "bitwise_or",
           "__xor__": "bitwise_xor", "eq": "eq", "floor_divide": "floor_divide",
           "fmod": "fmod", "ge": "ge", "gt": "gt", "le": "le", "logical_and": "logical_and",
           "logical_or": "logical_or", "logical_xor": "logical_xor", "lt": "lt",
           "maximum": "maximum", "minimum": "minimum", "mul": "mul", "ne": "ne",
           "remainder": "remainder"}  # fmt: skip


def _unary(fn: str) -> Handler:
    return lambda b, x: b.emit(ops.Unary(fn), x)


def _binary(fn: str) -> Handler:
    return lambda b, x, y: binary(b, fn, x, y)


for _name in _UNARY:
    HANDLERS[_name] = _unary(_name)
for _name, _fn in _BINARY.items():
    HANDLERS[_name] = _binary(_fn)


@HANDLERS.of("add", "sub")
def _add(b: Builder, x: Any, y: Any, alpha: Any = 1, fn: str = "add") -> Value:
    return binary(b, fn, x, y if alpha == 1 else binary(b, "mul", y, alpha))


HANDLERS["sub"] = lambda b, x, y, alpha=1: _add(b, x, y, alpha, "sub")
HANDLERS["rsub"] = lambda b, x, y, alpha=1: _add(b, y, x, alpha, "sub")


@HANDLERS.of("div")
def _div(b: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return binary(b, "floor_divide", x, y)
    result = binary(b, "div", x, y)
    return b.emit(ops.Unary("trunc"), result) if rounding_mode == "trunc" else result


@HANDLERS.of("pow")
def _pow(b: Builder, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and not isinstance(y, Value):
        if y == 2:
            return b.emit(ops.Unary("square"), x)
        if y in (0.5, -0.5):
            return b.emit(ops.Unary("sqrt" if y > 0 else "rsqrt"), x)
    return binary(b, "pow", x, y)


@HANDLERS.of("gelu")
def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    return b.emit(ops.Unary("gelu_tanh" if approximate == "tanh" else "gelu"), x)


@HANDLERS.of("softplus")
def _softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = x if beta == 1 else binary(b, "mul", x, beta)
    y = b.emit(ops.Unary("softplus"), scaled)
    return y if beta == 1 else binary(b, "div", y, beta)


@HANDLERS.of("log_sigmoid")
def _log_sigmoid(b: Builder, x: Value) -> Value:
    def negative(y: Value) -> Value:
        return b.emit(ops.Unary("neg"), y)

    return negative(b.emit(ops.Unary("softplus"), negative(x)))


@HANDLERS.of("elu")
def _elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if (alpha, scale, input_scale) != (1, 1, 1):
        raise TypeError("elu with scales")
    return b.emit(ops.Unary("elu"), x)


@HANDLERS.of("leaky_relu")
def _leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    return b.emit(ops.Where(), binary(b, "gt", x, 0), x, binary(b, "mul", x, slope))


@HANDLERS.of("clamp", "clip", "clamp_min")
def _clamp(b: Builder, x: Value, min: Any = None, max: Any = None) -> Value:
    x = x if min is None else binary(b, "maximum", x, min)
    return x if max is None else binary(b, "minimum", x, max)


HANDLERS["clamp_max"] = lambda b, x, max: _clamp(b, x, None, max)
HANDLERS["relu6"] = lambda b, x: _clamp(b, x, 0, 6)
HANDLERS["hardtanh"] = lambda b, x, min=-1, max=1: _clamp(b, x, min, max)


@HANDLERS.of("where")
def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    x, y = b.value(x, y if isinstance(y, Value) else None), b.value(y, x)
    return b.emit(ops.Where(), condition, x, y)


@HANDLERS.of("masked_fill")
def _masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    return b.emit(ops.Where(), mask, b.value(value, x), x)


@HANDLERS.of("_to_copy", "to")
def _to_copy(b: Builder, x: Value, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    dtype = dtype or next((a for a in args if isinstance(a, torch.dtype)), None)
    return x if dtype is None else cast(b, x, FROM_TORCH[dtype])


@HANDLERS.of("type_as")
def _type_as(b: Builder, x: Value, other: Value) -> Value:
    return cast(b, x, other.type.dtype)


@HANDLERS.of("alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "dropout",
      "_assert_tensor_metadata", "feature_dropout", "copy")  # fmt: skip
def _same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


HANDLERS["copy"] = lambda b, x, src, *_: cast(
    b, b.emit(ops.Expand(x.type.shape), src), x.type.dtype
)

HANDLERS.update({alias: HANDLERS[name] for alias, name in _ALIASES.items()})
