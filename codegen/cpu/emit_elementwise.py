"""Generic path: elementwise ops as loops over scalar functions of `kernels/elementwise.h`."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node
from ...ir.ops import Binary, Cast, Full, Iota, Unary, Where
from ...ir.ops.elementwise import promote
from ...ir.types import DType
from ..views import View, expand, is_whole
from .emitters import emits
from .function import C_TYPE, Function, Inlined
from .loops import Nest, loop_nest

_ON_FLOAT = {
    "cos", "sin", "tan", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "tanh",
    "sigmoid", "erf", "reciprocal", "div", "atan2",
}  # fmt: skip
_ON_BOOL = {"logical_and", "logical_or", "logical_xor"}


def compute_type(dtype: DType) -> str:
    """The C++ type that an op on `dtype` computes in."""
    return "float" if dtype.is_float else C_TYPE[dtype]


@emits(Unary)
def unary(fn: Function, node: Node, op: Unary) -> None:
    dtype = node.inputs[0].type.dtype
    c_type = "float" if op.fn in _ON_FLOAT else compute_type(dtype)
    name = f"op::{op.fn}"
    elementwise(fn, node, lambda x: f"{name}({_as(c_type, x)})")


@emits(Binary)
def binary(fn: Function, node: Node, op: Binary) -> None:
    name = op.fn
    c_type = compute_type(promote(node.inputs[0].type, node.inputs[1].type))
    if name in _ON_FLOAT:
        c_type = "float"
    elif name in _ON_BOOL:
        c_type = "bool"
    elementwise(
        fn,
        node,
        lambda a, b: (
            f"op::{name}(op::as<{c_type}>(op::load({a})), op::as<{c_type}>(op::load({b})))"
        ),
    )


@emits(Where)
def where(fn: Function, node: Node, _: Where) -> None:
    c_type = compute_type(node.output.type.dtype)
    elementwise(
        fn,
        node,
        lambda c, a, b: f"{c} ? op::as<{c_type}>(op::load({a})) : op::as<{c_type}>(op::load({b}))",
    )


@emits(Cast)
def cast(fn: Function, node: Node, _: Cast) -> None:
    elementwise(fn, node, lambda x: f"op::load({x})")


def _as(c_type: str, element: str) -> str:
    return f"op::as<{c_type}>(op::load({element}))"


@emits(Full)
def full(fn: Function, node: Node, op: Full) -> None:
    """A broadcast view of the scalar: nothing is stored."""
    fn.views[node.output] = expand(fn.view(node.inputs[0]), op.shape)


@emits(Iota)
def iota(fn: Function, node: Node, _: Iota) -> None:
    out = fn.result(node.output)

    def body(nest: Nest) -> list[str]:
        index = nest.loops[0].var if nest.loops else "0"
        return [f"op::store({nest.at(out)}, {index});"]

    fn.step(loop_nest(out.shape, [out], body), [], [out], rowwise=True)


def elementwise(fn: Function, node: Node, expression: Callable[..., str]) -> None:
    """One loop nest that stores `expression(*elements)`, or nothing yet if its only reader can
    compute it instead of reading it."""
    made = _inlined(fn, node, expression)
    if _is_for_one_loop(fn, node) and len(made.views) <= _MOST_INLINED:
        fn.inlined[node.output] = made
        return
    operands, out = list(made.views), fn.result(node.output)

    def body(nest: Nest) -> list[str]:
        return [f"op::store({nest.at(out)}, {made.text(*(nest.at(x) for x in operands))});"]

    lines = loop_nest(out.shape, [out, *operands], body, simd=True)
    pairs = [(out, x) for x in operands if may_overwrite(out, x, operands)]
    fn.step(lines, operands, [out], in_place=pairs, rowwise=True)


_MOST_INLINED = 6
"""Operands of one loop, so that their pointers stay in registers."""


def _inlined(fn: Function, node: Node, expression: Callable[..., str]) -> Inlined:
    """The node's result in terms of what is stored."""
    parts = [
        fn.inlined.pop(v, None) or Inlined((expand(fn.view(v), node.output.type.shape),), str)
        for v in node.inputs
    ]

    def text(*elements: str) -> str:
        rest = iter(elements)
        return expression(*(p.text(*(next(rest) for _ in p.views)) for p in parts))

    return Inlined(tuple(view for part in parts for view in part.views), text)


def _is_for_one_loop(fn: Function, node: Node) -> bool:
    """Whether an f32 result is read once, by a loop over the same shape. (Others are rounded when
    they are stored.)"""
    out = node.output
    users = out.users
    if len(users) != 1 or out in fn.outputs or out.type.dtype != DType.F32:
        return False
    reader = users[0]
    loops = isinstance(reader.op, Unary | Binary | Where | Cast)
    once = sum(v is out for v in reader.inputs) == 1
    return loops and once and reader.output.type.shape == out.type.shape


def may_overwrite(out: View, operand: View, operands: list[View]) -> bool:
    """Each element of `operand` is read only for the element of `out` that takes its place."""
    if operand.storage is None or not is_whole(operand):
        return False
    if operand.dtype.itemsize != out.dtype.itemsize or out.strides != operand.strides:
        return False
    others = [x for x in operands if x.storage == operand.storage]
    return all(x.strides == operand.strides and x.offset == operand.offset for x in others)
