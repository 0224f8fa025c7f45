"""Raise activations that a model spells in arithmetic.

0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))   =>  gelu_tanh(x), also with x taken out of the sum
x * sigmoid(x)                               =>  silu(x)
relu(x)²                                     =>  relu2(x)
cap * tanh(x / cap) on a linear's result     =>  linear {softcap}
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Linear, Op, Unary
from .rewrite import Bindings, Num, Rule, Var, apply_rules, number, op

_X = Var("x")
_CUBE = op("mul", op("pow", _X, Num(equals=3.0)), Num(equals=0.044715))
_TANH = op("tanh", op("mul", op("add", _X, _CUBE), Num(equals=0.7978845608)))
_CUBIC = op(
    "mul",
    op("mul", _X, Num(equals=0.7978845608)),
    op("add", op("mul", op("mul", _X, Num(equals=0.044715)), _X), Num(equals=1.0)),
)
_GELU, _GELU_OF_CUBIC = (
    op("mul", op("mul", _X, Num(equals=0.5)), op("add", tanh, Num(equals=1.0)))
    for tanh in (_TANH, op("tanh", _CUBIC))
)


def _to_unary(fn: str):
    def rewrite(graph: Graph, node: Node, m: Bindings) -> Value | str:
        return graph.insert_before(node, Unary(fn), [m["x"]]).output

    return rewrite


def _linear_without_cap(o: Op) -> bool:
    return type(o) is Linear and not o.softcap and not o.gated


def _to_softcap(graph: Graph, node: Node, m: Bindings) -> Value | str:
    cap, scale, linear = number(m["cap"]), number(m["scale"]), m["y"].producer
    divisor = scale if m["inner"].producer.op.mnemonic == "div" else 1 / scale  # type: ignore[union-attr]
    if abs(cap - divisor) > 1e-6 * cap:
        return f"tanh is scaled by {divisor} and {cap}"
    if linear is None or not _linear_without_cap(linear.op):
        return "not on a linear layer's result"
    assert isinstance(linear.op, Linear)
    return graph.insert_before(node, replace(linear.op, softcap=cap), linear.inputs).output


_RULES = (
    Rule("gelu by tanh => gelu_tanh(x)", (_GELU, _GELU_OF_CUBIC), _to_unary("gelu_tanh")),
    Rule("x * sigmoid(x) => silu(x)", (op("mul", _X, op("sigmoid", _X)),), _to_unary("silu")),
    Rule("square(relu(x)) => relu2(x)", (op("square", op("relu", _X)),), _to_unary("relu2")),
    Rule(
        "cap * tanh(linear(x) / cap) => linear {softcap}",
        tuple(
            op("mul", op("tanh", op(inner, Var("y"), Num("scale"), name="inner")), Num("cap"))
            for inner in ("div", "mul")
        ),
        _to_softcap,
    ),
)


def raise_activation(graph: Graph) -> bool:
    """Apply the rules; True if any applied."""
    return apply_rules(graph, _RULES)
