"""Raise normalizations from arithmetic.

    x * rsqrt(mean(x²) + eps)            =>  rms_norm(x)
    x * rsqrt(sum(x²) + eps), N wide     =>  rms_norm(x, 1 / sqrt(N)) with eps / N
    reshape(norm(reshape(x)))            =>  norm(x), where rows are rows of x
    rms_norm(x - mean(x))                =>  layer_norm(x)
    norm(x) * w, w [N]                   =>  norm(x, w)
    norm(x, w) * number                  =>  norm(x, w * number)
    layer_norm(x, w) + b, b [N]          =>  layer_norm(x, w, b)

Needs constants folded (`1 + w` is one constant by then) and leading units dropped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Norm, Op
from ..ir.recipe import Computed
from ..ir.scalar import Scalar
from ..weights.recipes import Elementwise
from .rewrite import Bindings, Const, Num, Rule, Var, apply_rules, number, op


def _over_last(node_op: Op) -> bool:
    return node_op.attributes() == {"fn": "mean", "dims": (-1,), "keepdim": True}


def _sums_last(node_op: Op) -> bool:
    return node_op.attributes() == {"fn": "sum", "dims": (-1,), "keepdim": True}


_X = Var("x")
_MEAN_SQUARE = op("reduce", op("square", _X), check=_over_last)
_RMS = (
    op("mul", _X, op("rsqrt", op("add", _MEAN_SQUARE, Num("eps")))),
    op("div", _X, op("sqrt", op("add", _MEAN_SQUARE, Num("eps")))),
)
_SQUARE_SUM = op("reduce", op("mul", _X, _X), check=_sums_last)
_L2 = op("mul", _X, op("rsqrt", op("add", _SQUARE_SUM, Num("eps"))))
_CENTERED = op("sub", _X, op("reduce", _X, check=_over_last))


def _plain(fn: str):
    return lambda o: isinstance(o, Norm) and o.fn == fn and not (o.weight or o.bias or o.add)


def _to_rms(graph: Graph, node: Node, m: Bindings) -> Value | str:
    norm = Norm("rms_norm", number(m["eps"]), weight=False)
    return graph.insert_before(node, norm, [m["x"]]).output


def _l2_to_rms(graph: Graph, node: Node, m: Bindings) -> Value | str:
    width = m["x"].type.shape[-1]
    if not isinstance(width, int):
        return f"a sum over a symbolic dimension of {m['x'].type}"
    norm = Norm("rms_norm", number(m["eps"]) / width)
    recipe = Computed.of("l2", np.full(width, width**-0.5, np.float32))
    weight = Graph.constant("l2", recipe, recipe.type)
    return graph.insert_before(node, norm, [m["x"], weight]).output


def _of_its_rows(graph: Graph, node: Node, m: Bindings) -> Value | str:
    norm, x = m["norm"].producer, m["x"]
    assert norm is not None
    if x.type != node.output.type or x.type.shape[-1] != norm.output.type.shape[-1]:
        return f"{norm.output.type} has other rows than {x.type}"
    return graph.insert_before(node, norm.op, [x]).output


def _scaled(graph: Graph, node: Node, m: Bindings) -> Value | str:
    norm, weight, factor = m["norm"].producer, m["w"], m["number"]
    assert norm is not None
    if len(m["norm"].users) > 1:
        return "the norm is read elsewhere, too"
    assert isinstance(factor.recipe, Scalar)
    recipe = Elementwise("mul", (weight.recipe, factor.recipe.as_leaf()))
    scaled = Graph.constant(weight.name, recipe, weight.type)
    return graph.insert_before(node, norm.op, [m["x"], scaled]).output


def _to_layer(graph: Graph, node: Node, m: Bindings) -> Value | str:
    assert isinstance(node.op, Norm)
    return graph.insert_before(node, replace(node.op, fn="layer_norm"), [m["x"]]).output


def _with_weight(graph: Graph, node: Node, m: Bindings) -> Value | str:
    norm = m["norm"].producer
    assert norm is not None
    assert isinstance(norm.op, Norm)
    if m["w"].type.shape != m["x"].type.shape[-1:]:
        return f"weight {m['w'].type} is not a vector over the last dimension"
    return graph.insert_before(node, replace(norm.op, weight=True), [m["x"], m["w"]]).output


def _with_bias(graph: Graph, node: Node, m: Bindings) -> Value | str:
    norm = m["norm"].producer
    assert norm is not None
    assert isinstance(norm.op, Norm)
    if m["b"].type.shape != m["x"].type.shape[-1:]:
        return f"bias {m['b'].type} is not a vector over the last dimension"
    new = replace(norm.op, bias=True)
    return graph.insert_before(node, new, [m["x"], m["w"], m["b"]]).output


def _weighted(o: Op) -> bool:
    return isinstance(o, Norm) and o.weight and not (o.bias or o.add)


_RULES = (
    Rule("x * rsqrt(mean(x^2) + eps) => rms_norm(x)", _RMS, _to_rms),
    Rule(
        "rms_norm(x - mean(x)) => layer_norm(x)",
        (op("rms_norm", _CENTERED, check=_plain("rms_norm")),),
        _to_layer,
    ),
    Rule("x * rsqrt(sum(x^2) + eps) => rms_norm(x, w)", (_L2,), _l2_to_rms),
    Rule(
        "reshape(norm(reshape(x))) => norm(x)",
        tuple(
            op("reshape", op(fn, op("reshape", _X), name="norm", check=_plain(fn)))
            for fn in ("rms_norm", "layer_norm")
        ),
        _of_its_rows,
    ),
    Rule(
        "norm(x, w) * number => norm(x, w * number)",
        tuple(
            op("mul", op(fn, _X, Const("w"), name="norm", check=_weighted), Num("number"))
            for fn in ("rms_norm", "layer_norm")
        ),
        _scaled,
    ),
    Rule(
        "norm(x) * w => norm(x, w)",
        tuple(
            op("mul", op(fn, _X, name="norm", check=_plain(fn)), Const("w"))
            for fn in ("rms_norm", "layer_norm")
        ),
        _with_weight,
    ),
    Rule(
        "layer_norm(x, w) + b => layer_norm(x, w, b)",
        (op("add", op("layer_norm", _X, Const("w"), name="norm", check=_weighted), Const("b")),),
        _with_bias,
    ),
)


def raise_norm(graph: Graph) -> bool:
    """Apply the rules; True if any applied."""
    return apply_rules(graph, _RULES)
