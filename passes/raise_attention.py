"""Raise attention that a model spells out instead of calling the attention interface.

    softmax(mask and scale (q @ kᵀ)) @ v   =>   attention(q, k, v) {scale, window}

Scale, mask and position bias may be added, multiplied or chosen in any order, and the scores
reshaped on the way: `score_arithmetic.py` finds out what it all means. Queries are [H, T, D] behind
any unit dimensions, or [H_kv, H / H_kv, T, D]; keys and values may have fewer heads.

Before: TRACED, constants folded. What is left of such arithmetic relates tokens with tokens, and
`prove_packing` refuses it, with the reason found here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Attention, Binary, Cast, MatMul, Permute, Reshape, Softmax
from ..ir.recipe import Computed
from ..ir.scalar import scalar_of
from ..ir.types import Sym
from .position_values import PositionValues
from .score_arithmetic import Meaning, Step, is_understood, meaning_of


def raise_attention(graph: Graph, tokens: int) -> bool:
    """Raise every instance; True if there was one. Masks are looked at for `tokens` tokens."""
    changed = False
    for node, found in _instances(graph, PositionValues(tokens)):
        if isinstance(found, str):
            debug(f"attention not raised at {node.scope}: {found}")
            continue
        graph.replace_uses(node.output, _emit(graph, node, found))
        changed = True
    return graph.erase_dead() or changed


def why_not_raised(graph: Graph, tokens: int) -> tuple[Node, str] | None:
    """The first softmax over tokens that is left, and why it isn't attention."""
    for node, found in _instances(graph, PositionValues(tokens)):
        if isinstance(found, str):
            return node, found
    return None


@dataclass
class _Found:
    """q [..., T, D], k_transposed [..., D, T], v [..., T, Dv], and what is done to the scores."""

    q: Value
    k_transposed: Value
    v: Value
    scale: float
    meaning: Meaning


def _instances(graph: Graph, values: PositionValues) -> Iterator[tuple[Node, _Found | str]]:
    """Products of a softmax over tokens with values."""
    for node in list(graph.nodes):
        if isinstance(node.op, MatMul):
            scores = _softmax_of(node.inputs[0])
            if scores is not None:
                yield node, _found(node, scores, values)


def _softmax_of(value: Value) -> Value | None:
    """x of softmax(x, -1) over tokens, whose weights may have been reshaped since."""
    node = value.producer
    while node is not None and isinstance(node.op, Reshape | Cast):
        node = node.inputs[0].producer
    if node is None or not isinstance(node.op, Softmax) or node.op.log or node.op.dim != -1:
        return None
    return node.inputs[0] if isinstance(node.inputs[0].type.shape[-1], Sym) else None


def _found(node: Node, scores: Value, values: PositionValues) -> _Found | str:
    steps: list[Step] = []
    while (made := scores.producer) is not None and not isinstance(made.op, MatMul):
        place = next((i for i in range(len(made.inputs)) if is_understood(made, i, values)), None)
        if place is None:
            return f"{made.op.mnemonic} does to the scores what is no scale, mask or bias"
        steps.append(Step(made, place))
        scores = made.inputs[place]
    if made is None:
        return "the scores are no product of queries and keys"
    meaning = meaning_of(reversed(steps), values)
    if isinstance(meaning, str):
        return meaning
    (q, k_transposed), v = made.inputs, node.inputs[1]
    if not (_fits(q, k_transposed) and _fits(q, v)):
        return f"queries {q.type} don't share keys {k_transposed.type} and values {v.type} evenly"
    q, q_scale = _unscaled(q)
    k_transposed, k_scale = _unscaled(k_transposed)
    return _Found(q, k_transposed, v, meaning.scale * q_scale * k_scale, meaning)


def _fits(q: Value, other: Value) -> bool:
    """Whether consecutive heads of q meet the same head of the other: its last dimensions are 1."""
    lead = list(q.type.shape[:-2])
    theirs = [1] * (len(lead) - other.type.rank + 2) + list(other.type.shape[:-2])
    shared = next((i for i, (a, b) in enumerate(zip(lead, theirs, strict=True)) if a != b), None)
    return shared is None or all(n == 1 for n in theirs[shared:])


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


def _emit(graph: Graph, node: Node, found: _Found) -> Value:
    """Attention on [T, H, D], and its result as the product was shaped."""
    operands = [
        _token_first(graph, node, found.q, (-2, -3, -1)),
        _token_first(graph, node, found.k_transposed, (-1, -3, -2)),
        _token_first(graph, node, found.v, (-2, -3, -1)),
    ]
    slopes = found.meaning.slopes
    op = Attention(found.scale, found.meaning.window, slopes=slopes is not None)
    if slopes is not None:
        heads = operands[0].type.shape[-2]
        numbers = slopes.float().expand(heads).contiguous().numpy()  # type: ignore[arg-type]
        recipe = Computed.of(f"{node.scope}.slopes".lstrip("."), numbers)
        operands.append(Graph.constant(recipe.name, recipe, recipe.type))
    done = graph.insert_before(node, op, operands).output
    swapped = graph.insert_before(node, Permute((-2, -3, -1)), [done]).output
    if swapped.type.shape == node.output.type.shape:
        return swapped
    return graph.insert_before(node, Reshape(node.output.type.shape), [swapped]).output


def _token_first(graph: Graph, node: Node, x: Value, dims: tuple[int, ...]) -> Value:
    """Heads as [T, H, D], by `dims` of [H, T, D]."""
    if x.type.rank != 3:
        lead = [n for n in x.type.shape[:-2] if isinstance(n, int)]
        shape = (prod(lead), *x.type.shape[-2:])
        x = graph.insert_before(node, Reshape(shape), [x]).output
    return graph.insert_before(node, Permute(dims), [x]).output
