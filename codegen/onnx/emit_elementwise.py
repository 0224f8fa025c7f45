"""Unary and binary functions, select and cast, with operators of ONNX alone.

Where ONNX has no operator, or none for an element type, the function is spelled out so that it
keeps torch's meaning: floor division and remainder of negative numbers, `expm1` near 0, shifts of
signed integers, reduced floats computed in f32.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...ir.graph import Node
from ...ir.ops import Binary, Cast, Unary, Where
from ...ir.ops.elementwise import promote
from ...ir.types import DType
from .constants import ONNX_TYPE
from .emitters import emits
from .model import Model

_DIRECT_UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "elu": "Elu", "erf": "Erf", "exp": "Exp",
    "floor": "Floor", "gelu": "Gelu", "hardswish": "HardSwish", "isinf": "IsInf",
    "isnan": "IsNaN", "log": "Log", "logical_not": "Not", "mish": "Mish", "neg": "Neg",
    "reciprocal": "Reciprocal", "round": "Round", "selu": "Selu",
    "sigmoid": "Sigmoid", "sin": "Sin", "softplus": "Softplus", "sqrt": "Sqrt",
    "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip
_NEEDS_FLOAT = {
    "cos", "sin", "tan", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "tanh",
    "sigmoid", "erf", "reciprocal", "isnan", "isinf", "isfinite",
}  # fmt: skip
_IDENTITY_OF_INTEGERS = {"ceil", "floor", "round", "trunc"}
_NARROW = (DType.I8, DType.U8)
_REDUCED = (DType.F16, DType.BF16)


@emits(Unary)
def emit_unary(model: Model, node: Node, op: Unary) -> None:
    """A unary function."""
    (x,) = model.operands()
    source, target = node.inputs[0].type.dtype, node.output.type.dtype
    fn = op.fn
    if not source.is_float and fn in _IDENTITY_OF_INTEGERS:
        model.result(model.add("Identity", x))
        return
    wide = _wide(source, fn in _NEEDS_FLOAT)
    if fn == "logical_not":
        wide = DType.BOOL
    y = unary(model, fn, x if wide is source else model.cast(x, wide), wide)
    model.result(_narrowed(model, y, wide, target))


def _wide(dtype: DType, needs_float: bool = False) -> DType:
    """The type that a function of `dtype` is computed in."""
    if dtype in _REDUCED or (needs_float and not dtype.is_float):
        return DType.F32
    return DType.I32 if dtype in _NARROW else dtype


def _narrowed(model: Model, y: ir.Value, wide: DType, target: DType) -> ir.Value:
    """`y`, computed in `wide`, as `target`; comparisons give bool already."""
    return y if target in (wide, DType.BOOL) else model.cast(y, target)


def unary(model: Model, fn: str, x: ir.Value, dtype: DType = DType.F32) -> ir.Value:
    """`fn(x)`, with x of `dtype` (f32, i32, i64 or bool)."""
    if fn in _DIRECT_UNARY:
        return model.add(_DIRECT_UNARY[fn], x)
    if fn == "bitwise_not":
        return model.add("Not" if dtype is DType.BOOL else "BitwiseNot", x)
    if fn == "gelu_tanh":
        return model.add("Gelu", x, approximate="tanh")
    if fn == "square":
        return model.add("Mul", x, x)
    if fn == "relu":
        return (
            model.add("Relu", x) if dtype.is_float else model.add("Max", x, model.number(0, dtype))
        )
    if fn == "sign":
        return _sign(model, x, dtype)
    if fn not in _SPELLED:
        raise model.refuse(f"there is no operator for {fn}")
    return _SPELLED[fn](model, x)


def _sign(model: Model, x: ir.Value, dtype: DType) -> ir.Value:
    """-1, 0 or 1; of NaN 0, as torch has it."""
    y = model.add("Sign", x)
    if not dtype.is_float:
        return y
    return model.add("Where", model.add("IsNaN", x), model.number(0.0, dtype), y)


def _f32(model: Model, value: float) -> ir.Value:
    return model.number(value, DType.F32)


def _expm1(model: Model, x: ir.Value) -> ir.Value:
    """tanh(x / 2) * (exp(x) + 1): exact near 0, where exp(x) - 1 cancels."""
    half = model.add("Tanh", model.add("Mul", x, _f32(model, 0.5)))
    return model.add("Mul", half, model.add("Add", model.add("Exp", x), _f32(model, 1.0)))


def _log1p(model: Model, x: ir.Value) -> ir.Value:
    """2 atanh(x / (2 + x)) where |x| < 0.5, which doesn't cancel; else log(1 + x)."""
    ratio = model.add("Div", x, model.add("Add", x, _f32(model, 2.0)))
    near = model.add("Mul", model.add("Atanh", ratio), _f32(model, 2.0))
    far = model.add("Log", model.add("Add", x, _f32(model, 1.0)))
    small = model.add("Less", model.add("Abs", x), _f32(model, 0.5))
    return model.add("Where", small, near, far)


def _isfinite(model: Model, x: ir.Value) -> ir.Value:
    bad = model.add("Or", model.add("IsInf", x), model.add("IsNaN", x))
    return model.add("Not", bad)


def _relu2(model: Model, x: ir.Value) -> ir.Value:
    positive = model.add("Relu", x)
    return model.add("Mul", positive, positive)


_SPELLED: dict[str, Callable[[Model, ir.Value], ir.Value]] = {
    "expm1": _expm1,
    "hardsigmoid": lambda m, x: m.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "isfinite": _isfinite,
    "log1p": _log1p,
    "log2": lambda m, x: m.add("Mul", m.add("Log", x), _f32(m, 1.4426950408889634)),
    "relu2": _relu2,
    "rsqrt": lambda m, x: m.add("Reciprocal", m.add("Sqrt", x)),
    "silu": lambda m, x: m.add("Mul", x, m.add("Sigmoid", x)),
    "trunc": lambda m, x: m.add("Mul", m.add("Sign", x), m.add("Floor", m.add("Abs", x))),
}

_DIRECT_BINARY = {
    "add": "Add", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "lt": "Less", "maximum": "Max", "minimum": "Min", "mul": "Mul",
    "pow": "Pow", "sub": "Sub",
}  # fmt: skip
_OF_BOOLS = {
    "add": "Or", "mul": "And", "maximum": "Or", "minimum": "And", "bitwise_and": "And",
    "bitwise_or": "Or", "bitwise_xor": "Xor", "logical_and": "And", "logical_or": "Or",
    "logical_xor": "Xor", "eq": "Equal", "ne": "Xor",
}  # fmt: skip
_BITWISE = {"bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor"}
_LOGICAL = {"logical_and", "logical_or", "logical_xor"}
_FLOAT_BINARY = {"div", "atan2"}


@emits(Binary)
def emit_binary(model: Model, node: Node, op: Binary) -> None:
    """A binary function of operands brought to their common type."""
    fn = op.fn
    common = promote(node.inputs[0].type, node.inputs[1].type)
    if fn in _LOGICAL:
        common = DType.BOOL
    wide = _wide(common, fn in _FLOAT_BINARY)
    if common is DType.BOOL and fn not in _OF_BOOLS and wide is DType.BOOL:
        wide = DType.I32
    a, b = (
        x if v.type.dtype is wide else model.cast(x, wide)
        for v, x in zip(node.inputs, model.operands(), strict=True)
    )
    if wide is DType.BOOL:
        model.result(model.add(_OF_BOOLS[fn], a, b))
        return
    model.result(_narrowed(model, binary(model, fn, a, b, wide), wide, node.output.type.dtype))


def binary(model: Model, fn: str, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    """`fn(a, b)` of two operands of `dtype` (f32, i32 or i64)."""
    if fn in _DIRECT_BINARY:
        return model.add(_DIRECT_BINARY[fn], a, b)
    if fn in _BITWISE:
        return model.add(_BITWISE[fn], a, b)
    if fn == "ne":
        return model.add("Not", model.add("Equal", a, b))
    if fn == "fmod":
        return model.add("Mod", a, b, fmod=1)
    if fn not in _SPELLED_BINARY:
        raise model.refuse(f"there is no operator for {fn}")
    return _SPELLED_BINARY[fn](model, a, b, dtype)


def _remainder(model: Model, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    """The remainder with the divisor's sign."""
    if not dtype.is_float:
        return model.add("Mod", a, b)
    rest = model.add("Mod", a, b, fmod=1)
    return model.add("Where", _signs_differ(model, rest, b, dtype), model.add("Add", rest, b), rest)


def _signs_differ(model: Model, rest: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    """Where a remainder isn't 0 and has another sign than the divisor."""
    zero = model.number(0, dtype)
    there = model.add("Not", model.add("Equal", rest, zero))
    differ = model.add("Xor", model.add("Less", rest, zero), model.add("Less", b, zero))
    return model.add("And", there, differ)


def _floor_divide(model: Model, a: ir.Value, b: ir.Value, dtype: DType) -> ir.Value:
    """(a - remainder) / b, which is whole but for rounding; a float division by 0 as it is."""
    if not dtype.is_float:
        return model.add("Div", model.add("Sub", a, model.add("Mod", a, b)), b)
    rest = model.add("Mod", a, b, fmod=1)
    quotient = model.add("Div", model.add("Sub", a, rest), b)
    below = model.add("Sub", quotient, model.number(1.0, dtype))
    differ = _signs_differ(model, rest, b, dtype)
    whole = model.add("Round", model.add("Where", differ, below, quotient))
    by_zero = model.add("Equal", b, model.number(0.0, dtype))
    return model.add("Where", by_zero, model.add("Div", a, b), whole)


def _atan2(model: Model, y: ir.Value, x: ir.Value, dtype: DType) -> ir.Value:
    """The angle of (x, y): atan(y / x) moved into its half plane; signs of zeros count."""
    zero, pi = model.number(0.0, dtype), model.number(3.141592653589793, dtype)
    one = model.number(1.0, dtype)
    infinite = model.add("And", model.add("IsInf", x), model.add("IsInf", y))
    y, x = (model.add("Where", infinite, model.add("Sign", v), v) for v in (y, x))
    nowhere = model.add("And", model.add("Equal", x, zero), model.add("Equal", y, zero))
    slope = model.add("Div", y, model.add("Where", nowhere, one, x))
    below, left = (_is_negative(model, v, zero, one) for v in (y, x))
    side = model.add("Where", below, model.add("Neg", pi), pi)
    turned = model.add("Where", left, side, zero)
    return model.add("Add", model.add("Atan", slope), turned)


def _is_negative(model: Model, x: ir.Value, zero: ir.Value, one: ir.Value) -> ir.Value:
    """Whether x is below 0 or the negative zero, whose reciprocal is -inf."""
    at_zero = model.add("Equal", x, zero)
    return model.add("Less", model.add("Where", at_zero, model.add("Div", one, x), x), zero)


def _shift(model: Model, a: ir.Value, b: ir.Value, dtype: DType, left: bool) -> ir.Value:
    """a * 2^b, or a // 2^b rounded down, in i64: ONNX shifts unsigned integers only."""
    wide, count = (model.cast(x, DType.I64) if dtype is not DType.I64 else x for x in (a, b))
    power = model.add("Pow", model.number(2, DType.I64), count)
    y = model.add("Mul", wide, power) if left else _floor_divide(model, wide, power, DType.I64)
    return y if dtype is DType.I64 else model.cast(y, dtype)


_SPELLED_BINARY: dict[str, Callable[[Model, ir.Value, ir.Value, DType], ir.Value]] = {
    "atan2": _atan2,
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "shift_left": lambda m, a, b, t: _shift(m, a, b, t, left=True),
    "shift_right": lambda m, a, b, t: _shift(m, a, b, t, left=False),
}


@emits(Where)
def where(model: Model, node: Node, _: Where) -> None:
    """`a where condition else b`; bools and narrow types by way of i32."""
    condition, *choices = model.operands()
    target = node.output.type.dtype
    wide = DType.I32 if target is DType.BOOL else _wide(target)
    a, b = (
        x if v.type.dtype is wide else model.cast(x, wide)
        for v, x in zip(node.inputs[1:], choices, strict=True)
    )
    y = model.add("Where", condition, a, b)
    model.result(y if target is wide else model.cast(y, target))


@emits(Cast)
def cast(model: Model, node: Node, op: Cast) -> None:
    """Conversion; from floats to narrow integers by way of i32, as torch does."""
    (x,) = model.operands()
    target = model.computes_in if op.dtype is DType.F32 else op.dtype
    if node.inputs[0].type.dtype.is_float and op.dtype in _NARROW:
        x = model.cast(x, DType.I32)
    model.result(model.add("Cast", x, to=ONNX_TYPE[target].value))
