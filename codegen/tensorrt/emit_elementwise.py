"""Elementwise ops: each of the IR's functions as TensorRT layers, in f32 for floats."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ir.graph import Node
from ...ir.ops import Binary, Cast, Unary, Where
from ...ir.types import DType
from .emitters import emits
from .net import Net, Tensor

_UNARY = {
    "abs": "ABS", "ceil": "CEIL", "cos": "COS", "erf": "ERF", "exp": "EXP", "floor": "FLOOR",
    "isinf": "ISINF", "isnan": "ISNAN", "log": "LOG", "logical_not": "NOT", "neg": "NEG",
    "reciprocal": "RECIP", "round": "ROUND", "sign": "SIGN", "sin": "SIN", "sqrt": "SQRT",
    "tan": "TAN",
}  # fmt: skip
_ACTIVATION = {
    "relu": "RELU", "sigmoid": "SIGMOID", "tanh": "TANH", "gelu": "GELU_ERF",
    "gelu_tanh": "GELU_TANH",
}  # fmt: skip
_PARAMETERS = {
    "elu": ("ELU", 1.0, 0.0),
    "selu": ("SELU", 1.6732632423543772, 1.0507009873554805),
    "softplus": ("SOFTPLUS", 1.0, 1.0),
    "hardsigmoid": ("HARD_SIGMOID", 1 / 6, 0.5),
}


def apply(net: Net, fn: str, x: Tensor) -> Tensor:
    """The unary function `fn` (a key of `UNARY`) of a tensor."""
    if fn == "bitwise_not":  # of bools; TensorRT refuses it of numbers
        return _not(net, x)
    if fn in _UNARY:
        return net.unary(x, _UNARY[fn])
    if fn in _ACTIVATION:
        kind = getattr(net.trt.ActivationType, _ACTIVATION[fn])
        return net.out(net.network.add_activation(x, kind))
    if fn in _PARAMETERS:
        return _with_parameters(net, x, *_PARAMETERS[fn])
    return _COMPOSED[fn](net, x)


def _with_parameters(net: Net, x: Tensor, kind: str, alpha: float, beta: float) -> Tensor:
    layer = net.add(net.network.add_activation(x, getattr(net.trt.ActivationType, kind)))
    layer.alpha, layer.beta = alpha, beta
    return layer.get_output(0)


def _times(gate: str) -> Callable[[Net, Tensor], Tensor]:
    return lambda net, x: net.binary(x, apply(net, gate, x), "PROD")


def _square(net: Net, x: Tensor) -> Tensor:
    return net.binary(x, x, "PROD")


def _not(net: Net, x: Tensor) -> Tensor:
    return net.unary(x, "NOT")


def _finite(net: Net, x: Tensor) -> Tensor:
    return _not(net, net.binary(net.unary(x, "ISINF"), net.unary(x, "ISNAN"), "OR"))


def _trunc(net: Net, x: Tensor) -> Tensor:
    negative = net.binary(x, net.literal(0, x.dtype, len(x.shape)), "LESS")
    up, down = net.unary(x, "CEIL"), net.unary(x, "FLOOR")
    return net.out(net.network.add_select(negative, up, down))


def _mish(net: Net, x: Tensor) -> Tensor:
    return net.binary(x, apply(net, "tanh", apply(net, "softplus", x)), "PROD")


_COMPOSED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "silu": _times("sigmoid"),
    "hardswish": _times("hardsigmoid"),
    "mish": _mish,
    "square": _square,
    "relu2": lambda net, x: _square(net, apply(net, "relu", x)),
    "rsqrt": lambda net, x: net.unary(net.unary(x, "SQRT"), "RECIP"),
    "expm1": lambda net, x: net.scaled(net.unary(x, "EXP"), 1.0, "SUB"),
    "log1p": lambda net, x: net.unary(net.scaled(x, 1.0, "SUM"), "LOG"),
    "log2": lambda net, x: net.scaled(net.unary(x, "LOG"), 1 / math.log(2)),
    "isfinite": _finite,
    "trunc": _trunc,
}
UNARY_FUNCTIONS = frozenset({*_UNARY, *_ACTIVATION, *_PARAMETERS, *_COMPOSED})

_BINARY = {
    "add": "SUM", "sub": "SUB", "mul": "PROD", "div": "DIV", "pow": "POW", "maximum": "MAX",
    "minimum": "MIN", "eq": "EQUAL", "gt": "GREATER", "lt": "LESS", "logical_and": "AND",
    "logical_or": "OR", "logical_xor": "XOR", "floor_divide": "FLOOR_DIV",
}  # fmt: skip
_NEGATED = {"ne": "EQUAL"}
_OR_EQUAL = {"ge": "GREATER", "le": "LESS"}
_REMAINDERS = {"remainder", "fmod"}
_LOGICAL = {"logical_and", "logical_or", "logical_xor"}
BINARY_FUNCTIONS = frozenset({*_BINARY, *_NEGATED, *_OR_EQUAL, *_REMAINDERS})


def combine(net: Net, fn: str, a: Tensor, b: Tensor) -> Tensor:
    """The binary function `fn` of two tensors of one type."""
    if fn in _NEGATED:
        return _not(net, net.binary(a, b, _NEGATED[fn]))
    if fn in _OR_EQUAL:
        return net.binary(net.binary(a, b, _OR_EQUAL[fn]), net.binary(a, b, "EQUAL"), "OR")
    if fn == "fmod":  # the sign of the dividend
        rest = combine(net, "remainder", net.unary(a, "ABS"), net.unary(b, "ABS"))
        return net.binary(net.unary(a, "SIGN"), rest, "PROD")
    if fn == "remainder":
        whole = net.binary(net.binary(a, b, "FLOOR_DIV"), b, "PROD")
        return net.binary(a, whole, "SUB")
    return net.binary(a, b, _BINARY[fn])


@emits(Unary, only=lambda op: op.fn in UNARY_FUNCTIONS)
def unary(net: Net, node: Node, op: Unary) -> Tensor:
    """A function of one operand; bools and integers are widened where the function gives f32."""
    (x,) = node.inputs
    tensor = net.read(x)
    result = node.output.type.dtype
    if op.fn == "logical_not":
        tensor = net.cast(tensor, net.trt.bool)
    elif result.is_float and not x.type.dtype.is_float:
        tensor = net.cast(tensor, net.trt.float32)
    return apply(net, op.fn, tensor)


@emits(Binary, only=lambda op: op.fn in BINARY_FUNCTIONS)
def binary(net: Net, node: Node, op: Binary) -> Tensor:
    """A function of two operands, in the type that torch computes it in."""
    a, b = (net.read(v) for v in node.inputs)
    wanted = net.trt.bool if op.fn in _LOGICAL else _common(net, node)
    return combine(net, op.fn, net.cast(a, wanted), net.cast(b, wanted))


def _common(net: Net, node: Node) -> object:
    """The type that the operands are computed in; 0-d operands don't widen their kind."""
    from ...ir.ops.elementwise import promote

    dtype = promote(node.inputs[0].type, node.inputs[1].type)
    if dtype.is_float or (node.output.type.dtype.is_float):
        return net.trt.float32
    return net.types[DType.I32 if dtype is DType.BOOL else dtype]


@emits(Where)
def where(net: Net, node: Node, _: Where) -> Tensor:
    condition, a, b = (net.read(v) for v in node.inputs)
    dtype = node.output.type.dtype
    wanted = net.trt.float32 if dtype.is_float else net.types[dtype]
    operands = net.align(condition, net.cast(a, wanted), net.cast(b, wanted))
    return net.out(net.network.add_select(*operands))


@emits(Cast)
def cast(net: Net, node: Node, op: Cast) -> Tensor:
    """A conversion as in torch: floats to integers truncate, to f16 and bf16 they round."""
    tensor = net.read(node.inputs[0])
    if node.inputs[0].type.dtype.is_float and op.dtype is DType.BOOL:
        zero = net.literal(0, tensor.dtype, len(tensor.shape))
        return _not(net, net.binary(tensor, zero, "EQUAL"))
    return net.cast(tensor, net.types[op.dtype])
