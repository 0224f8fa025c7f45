"""Raise the choice of keys that attention is to see.

    top_tokens(reshape(w @ relu(scale (q @ kᵀ))) + causal mask)
        =>   key_index(q, k, w) {topk, scale}

Heads of small queries score every key, a weight for each head and token sums them up. The scale may
stand before or after the product. What is left of such arithmetic relates tokens with tokens, and
`prove_packing` refuses it.

Before: TRACED, constants folded.
"""

from __future__ import annotations

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import (
    Binary,
    Cast,
    CausalMask,
    Expand,
    KeyIndex,
    MatMul,
    Permute,
    Reshape,
    TopTokens,
    Unary,
)
from ..ir.scalar import scalar_of
from ..ir.types import Dim, DType, T


def raise_key_index(graph: Graph) -> bool:
    """Raise every instance; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, TopTokens):
            continue
        result = _raised(graph, node, node.op)
        if isinstance(result, str):
            debug(f"choice of keys not raised at {node.scope}: {result}")
            continue
        graph.replace_uses(node.output, result)
        changed = True
    return graph.erase_dead() or changed


def _raised(graph: Graph, node: Node, op: TopTokens) -> Value | str:
    scores = _unmasked(node.inputs[0])
    if scores is None:
        return "scores are not masked causally"
    summed = _moved(scores).producer
    if summed is None or not isinstance(summed.op, MatMul):
        return "scores are no sum over heads"
    weights, by_head = summed.inputs
    relu, outer = _unscaled(by_head)
    if relu.producer is None or relu.producer.op != Unary("relu"):
        return "scores of heads are not cut off at zero"
    product, inner = _unscaled(relu.producer.inputs[0])
    products = product.producer
    if products is None or not isinstance(products.op, MatMul) or outer * inner <= 0:
        return "scores of heads are no products of queries and keys"
    q, keys = products.inputs
    heads, size = q.type.shape[-2:]
    shapes: tuple[tuple[Dim, ...], ...] = ((T, heads, size), (T, heads))
    k = _token_first(graph, node, keys, size)
    if k is None or any(x.type.shape[-3] != T for x in (q, weights) if x.type.rank >= 3):
        return f"queries {q.type}, keys {keys.type}, weights {weights.type}"
    q, weights = (_shaped(graph, node, x, to) for x, to in zip((q, weights), shapes, strict=True))
    index = graph.insert_before(node, KeyIndex(op.k, outer * inner), [q, k, weights]).output
    return graph.insert_before(node, Cast(DType.I64), [index]).output


def _moved(value: Value) -> Value:
    """What a value is but for its shape and element type."""
    node = value.producer
    while node is not None and isinstance(node.op, Reshape | Cast):
        value, node = node.inputs[0], node.inputs[0].producer
    return value


def _unmasked(value: Value) -> Value | None:
    """s of s + mask, for a causal mask without a window."""
    add = value.producer
    if add is None or add.op != Binary("add"):
        return None
    for scores, mask in (add.inputs, add.inputs[::-1]):
        node = mask.producer
        while node is not None and isinstance(node.op, Expand | Reshape):
            node = node.inputs[0].producer
        if node is not None and isinstance(node.op, CausalMask) and not node.op.window:
            return scores
    return None


def _unscaled(value: Value) -> tuple[Value, float]:
    """(x, c) of c * x or x / (1/c)."""
    node = value.producer
    if node is None or not isinstance(node.op, Binary) or node.op.fn not in ("mul", "div"):
        return value, 1.0
    factor = scalar_of(node.inputs[1])
    if not factor or node.output.type != node.inputs[0].type:
        return value, 1.0
    x, inner = _unscaled(node.inputs[0])
    return x, inner * (float(factor) if node.op.fn == "mul" else 1 / float(factor))


def _token_first(graph: Graph, node: Node, keys: Value, size: Dim) -> Value | None:
    """Keys [..., size, T] as [T, size]."""
    rest = keys.type.shape[:-2]
    if keys.type.shape[-2:] != (size, T) or any(dim != 1 for dim in rest):
        return None
    order = (*range(-keys.type.rank, -2), -1, -2)
    turned = graph.insert_before(node, Permute(order), [keys]).output
    return _shaped(graph, node, turned, (T, size))


def _shaped(graph: Graph, node: Node, x: Value, shape: tuple[Dim, ...]) -> Value:
    if x.type.shape == shape:
        return x
    return graph.insert_before(node, Reshape(shape), [x]).output
