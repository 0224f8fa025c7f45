"""Raise attention that a model spells out instead of calling the attention interface.

    softmax(scale * (q @ kᵀ) + mask) @ v   =>   attention(q, k, v) {scale, window}

The scale may stand before or after the product, as factor or divisor, or be left out. Queries are
[H, T, D] (a leading unit is allowed), keys and values may have fewer heads. What is left of such
arithmetic relates tokens with tokens, and `prove_packing` refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Attention, Binary, CausalMask, Expand, MatMul, Permute, Reshape, Softmax
from ..ir.scalar import scalar_of
from ..ir.types import Sym


def raise_attention(graph: Graph) -> bool:
    """Raise every instance; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, MatMul):
            continue
        scores = _softmax_of(node.inputs[0])
        if scores is None:
            continue
        found = _scores(scores)
        if isinstance(found, str):
            debug(f"attention not raised at {node.scope}: {found}")
            continue
        graph.replace_uses(node.output, _emit(graph, node, found))
        changed = True
    return graph.erase_dead() or changed


@dataclass
class _Scores:
    """What the scores were computed from: q [..., H, T, D], k_transposed [..., H_kv, D, T]."""

    q: Value
    k_transposed: Value
    scale: float
    window: int


def _softmax_of(value: Value) -> Value | None:
    """x of softmax(x, -1) over tokens."""
    node = value.producer
    if node is None or not isinstance(node.op, Softmax) or node.op.log or node.op.dim != -1:
        return None
    return node.inputs[0] if isinstance(node.inputs[0].type.shape[-1], Sym) else None


def _scores(value: Value) -> _Scores | str:
    """Take apart mask, scale and product, in the order in which models apply them."""
    value, outer = _unscaled(value)  # the mask's huge negative numbers survive any scale
    add = value.producer
    if add is None or not (isinstance(add.op, Binary) and add.op.fn == "add"):
        return "no mask is added to the scores"
    for scores, mask in (add.inputs, add.inputs[::-1]):  # noqa: B007
        window = _window(mask)
        if window is not None:
            break
    else:
        return "what is added to the scores is no causal mask"
    scores, scale = _unscaled(scores)
    product = scores.producer
    if product is None or not isinstance(product.op, MatMul):
        return "the scores are no product of queries and keys"
    q, q_scale = _unscaled(product.inputs[0])
    k_transposed, k_scale = _unscaled(product.inputs[1])
    return _Scores(q, k_transposed, outer * scale * q_scale * k_scale, window)


def _unscaled(value: Value) -> tuple[Value, float]:
    """(x, c) of c * x or x / (1/c)."""
    node = value.producer
    if node is None or not isinstance(node.op, Binary) or node.op.fn not in ("mul", "div"):
        return value, 1.0
    factor = scalar_of(node.inputs[1])
    if factor is None or node.output.type != node.inputs[0].type:
        return value, 1.0
    x, inner = _unscaled(node.inputs[0])
    return x, inner * (float(factor) if node.op.fn == "mul" else 1 / float(factor))


def _window(value: Value) -> int | None:
    """The window of the causal mask that `value` is, through reshapes and broadcasts."""
    node = value.producer
    while node is not None and isinstance(node.op, Expand | Reshape):
        node = node.inputs[0].producer
    return node.op.window if node is not None and isinstance(node.op, CausalMask) else None


def _emit(graph: Graph, node: Node, found: _Scores) -> Value:
    """Attention on [T, H, D], and its result as the product was shaped."""
    heads = [
        _token_first(graph, node, found.q, (-2, -3, -1)),
        _token_first(graph, node, found.k_transposed, (-1, -3, -2)),
        _token_first(graph, node, node.inputs[1], (-2, -3, -1)),
    ]
    done = graph.insert_before(node, Attention(found.scale, found.window), heads).output
    swapped = graph.insert_before(node, Permute((-2, -3, -1)), [done]).output
    if swapped.type.shape == node.output.type.shape:
        return swapped
    return graph.insert_before(node, Reshape(node.output.type.shape), [swapped]).output


def _token_first(graph: Graph, node: Node, x: Value, dims: tuple[int, ...]) -> Value:
    """Heads as [T, H, D], by `dims` of the last three dimensions."""
    if x.type.rank > 3:
        x = graph.insert_before(node, Reshape(x.type.shape[-3:]), [x]).output
    return graph.insert_before(node, Permute(dims), [x]).output
