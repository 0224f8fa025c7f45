"""What an elementwise op is in Triton: one table, and the element types that it computes in.

In: an op, its operands (`Term`) and the type of its result. Out: the text of an expression. The
functions that it may call are in `kernels/elementwise.py`. Floats are computed in f32, booleans
that are not combined bit by bit in i32, integers in their own type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.ops import Binary, Cast, Op, Unary, Where
from ...ir.ops.elementwise import promote
from ...ir.types import DType, TensorType

TRITON_TYPE: dict[DType, str] = {
    DType.F32: "tl.float32", DType.BF16: "tl.bfloat16", DType.F16: "tl.float16",
    DType.I64: "tl.int64", DType.I32: "tl.int32", DType.I8: "tl.int8", DType.U8: "tl.uint8",
    DType.BOOL: "tl.int1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """A named tile: its text, the element type of its numbers, the axes that it varies along.

    bf16 and f16 numbers are held in f32, rounded to their type.
    """

    text: str
    dtype: DType
    axes: frozenset[str] = frozenset()


_FLOAT_CALLS = {
    "cos": "tl.cos({0})", "sin": "tl.sin({0})", "tan": "tan({0})", "erf": "tl.erf({0})",
    "exp": "exp({0}, PORTABLE)", "expm1": "expm1({0}, PORTABLE)", "log": "tl.log({0})",
    "log1p": "log1p({0}, PORTABLE)", "log2": "tl.log2({0})", "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "rsqrt({0})", "tanh": "tanh({0}, PORTABLE)", "sigmoid": "sigmoid({0}, PORTABLE)",
    "reciprocal": "reciprocal({0})", "elu": "elu({0}, PORTABLE)", "gelu": "gelu({0})",
    "gelu_tanh": "gelu_tanh({0}, PORTABLE)", "hardswish": "hardswish({0})",
    "hardsigmoid": "hardsigmoid({0})", "mish": "mish({0}, PORTABLE)",
    "selu": "selu({0}, PORTABLE)", "silu": "silu({0}, PORTABLE)",
    "softplus": "softplus({0}, PORTABLE)", "div": "tl.div_rn({0}, {1})",
    "atan2": "atan2({0}, {1})",
}  # fmt: skip
"""Computed in f32 whatever the operands are."""

_BOOL_CALLS = {
    "logical_not": "~{0}", "logical_and": "{0} & {1}", "logical_or": "{0} | {1}",
    "logical_xor": "{0} ^ {1}",
}  # fmt: skip
"""Computed on truth values."""

_BITS = {
    "bitwise_not": "~{0}", "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
}  # fmt: skip
"""Computed in the operands' type, booleans included."""

_CALLS = {
    "abs": "tl.abs({0})", "neg": "-{0}", "relu": "relu({0})", "relu2": "relu2({0})",
    "sign": "sign({0})", "square": "{0} * {0}", "isnan": "{0} != {0}",
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}",
    "maximum": "maximum({0}, {1})", "minimum": "minimum({0}, {1})",
    "eq": "{0} == {1}", "ne": "{0} != {1}", "lt": "{0} < {1}", "le": "{0} <= {1}",
    "gt": "{0} > {1}", "ge": "{0} >= {1}",
}  # fmt: skip
"""Computed in the operands' common type."""

_ON_FLOATS = {
    "ceil": "tl.ceil({0})", "floor": "tl.floor({0})", "round": "round({0})",
    "trunc": "trunc({0})", "isinf": 'tl.abs({0}) == float("inf")',
    "isfinite": 'tl.abs({0}) < float("inf")', "floor_divide": "floor_divide({0}, {1}, PORTABLE)",
    "fmod": "fmod({0}, {1}, PORTABLE)", "remainder": "remainder({0}, {1}, PORTABLE)",
    "pow": "pow({0}, {1}, PORTABLE)",
}  # fmt: skip
"""In the operands' type: what it is for floats, and below for integers."""

_ON_INTEGERS = {
    "ceil": "{0}", "floor": "{0}", "round": "{0}", "trunc": "{0}", "isinf": "{0} != {0}",
    "isfinite": "{0} == {0}", "floor_divide": "int_floor_divide({0}, {1})",
    "fmod": "int_fmod({0}, {1})", "remainder": "int_remainder({0}, {1})",
    "pow": "int_pow({0}, {1}, {bits})", "shift_left": "shift_left({0}, {1}, {bits})",
    "shift_right": "shift_right({0}, {1}, {bits})",
}  # fmt: skip


def expression(op: Op, operands: Sequence[Term], types: Sequence[TensorType], to: DType) -> str:
    """The text of `op` of `operands` (of the IR's `types`), as numbers of type `to`.

    Raises:
        KeyError: the table doesn't have the op for these element types.
    """
    if isinstance(op, Cast):
        return converted(operands[0], to)
    if isinstance(op, Where):
        condition, a, b = operands
        return f"tl.where({condition.text}, {converted(a, to)}, {converted(b, to)})"
    assert isinstance(op, (Unary, Binary))
    common = types[0].dtype if len(types) == 1 else promote(types[0], types[1])
    text, dtype = _rule(op.fn, common)
    bits = 8 * dtype.itemsize
    call = text.format(*(f"({converted(x, dtype)})" for x in operands), bits=bits)
    gives = DType.BOOL if to == DType.BOOL and _is_test(op.fn) else dtype
    return converted(Term(call, gives), to)


def _rule(fn: str, common: DType) -> tuple[str, DType]:
    """The text of a function and the type that it is computed in."""
    if fn in _FLOAT_CALLS:
        return _FLOAT_CALLS[fn], DType.F32
    if fn in _BOOL_CALLS:
        return _BOOL_CALLS[fn], DType.BOOL
    if fn in _BITS:
        return _BITS[fn], common
    compute = DType.F32 if common.is_float else DType.I32 if common == DType.BOOL else common
    if fn in _CALLS:
        return _CALLS[fn], compute
    return (_ON_FLOATS if common.is_float else _ON_INTEGERS)[fn], compute


def _is_test(fn: str) -> bool:
    """The expression itself gives truth values."""
    return fn in {"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite"}


def converted(x: Term, to: DType) -> str:
    """`x` as numbers of type `to`, with torch's conversions."""
    if x.dtype == to or (to == DType.F32 and x.dtype.is_float):
        return x.text
    if to == DType.BOOL:
        return f"(({x.text}) != 0)"
    if to in (DType.BF16, DType.F16):
        return f"({x.text}).to({TRITON_TYPE[to]}).to(tl.float32)"
    if x.dtype.is_float and to in (DType.I8, DType.U8):  # negative numbers wrap
        return f"({x.text}).to(tl.int64).to({TRITON_TYPE[to]})"
    return f"({x.text}).to({TRITON_TYPE[to]})"


def held_as(dtype: DType) -> str:
    """The Triton type that numbers of `dtype` are held in."""
    return TRITON_TYPE[DType.F32 if dtype.is_float else dtype]


def literal(value: float | int | bool, dtype: DType) -> str:
    """Python text of a scalar of `dtype`, as `View.literal` has it."""
    if dtype == DType.BOOL:
        return "True" if value else "False"
    if not dtype.is_float:
        return str(int(value))
    number = float(value)
    text = repr(number)
    return text if number - number == 0 else f'float("{text}")'
