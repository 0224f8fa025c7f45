"""Raise biases that a model adds behind a linear layer itself.

linear(x, w) + b   =>   linear(x, w, b) {bias}
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Linear, Op
from .rewrite import Bindings, Const, Rule, Var, apply_rules, op


def _is_plain(o: Op) -> bool:
    return o == Linear()


def _to_bias(graph: Graph, node: Node, m: Bindings) -> Value | str:
    linear, bias = m["y"].producer, m["b"]
    assert linear is not None
    if bias.type.shape != m["y"].type.shape[-1:]:
        return f"{bias.type} is no bias"
    if len(m["y"].users) > 1:
        return "the sum without it is read too"
    return graph.insert_before(node, Linear(bias=True), [*linear.inputs, bias]).output


_RULE = Rule(
    "linear(x, w) + b => linear {bias}",
    (op("add", op("linear", Var("x"), Const("w"), name="y", check=_is_plain), Const("b")),),
    _to_bias,
)


def raise_bias(graph: Graph) -> bool:
    """Apply the rule; True if it applied."""
    return apply_rules(graph, (_RULE,))
