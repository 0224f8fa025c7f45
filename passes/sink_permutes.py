"""Sink permutes below the ops that don't care, so that heads arrive at attention as [T, H, D].

    op(permute(x)) => permute(op(x))    for elementwise ops, also of two that are permuted alike,
                                        slices, norms and concats of the last dimension, and
                                        products with a [D] vector

Runs after `raise_rotary`, whose patterns need the model's own order of ops; `canonicalize`
then cancels the permutes that meet.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Cast, Concat, Norm, Op, Permute, Slice, Unary
from .canonicalize import canonicalize


def sink_permutes(graph: Graph) -> bool:
    """Apply until nothing changes; True if anything did."""
    changed = False
    while _sweep(graph):
        canonicalize(graph)
        changed = True
    return changed


def _sweep(graph: Graph) -> bool:
    changed = False
    for node in list(graph.nodes):
        if len(node.outputs) != 1 or not node.output.users:
            continue
        result = _sunk(graph, node)
        if result is not None:
            graph.replace_uses(node.output, result)
            changed = True
    return changed


def _sunk(graph: Graph, node: Node) -> Value | None:
    op = node.op
    if isinstance(op, Binary):
        return _binary(graph, node)
    if isinstance(op, Concat):
        return _concat(graph, node, op)
    if not isinstance(op, Unary | Cast | Norm | Slice):
        return None
    inner = _permute_of(node.inputs[0])
    if inner is None or (isinstance(op, Norm) and op.add):
        return None
    if isinstance(op, Norm) and _dims(inner)[-1] != -1:
        return None
    if isinstance(op, Slice):
        op = replace(op, dim=_dims(inner)[op.dim])
    return _below(graph, node, inner, op, [inner.inputs[0], *node.inputs[1:]])


def _binary(graph: Graph, node: Node) -> Value | None:
    for i in (0, 1):
        inner, other = _permute_of(node.inputs[i]), node.inputs[1 - i]
        if inner is None or node.output.type.shape != node.inputs[i].type.shape:
            continue
        beside = _permute_of(other)
        if beside is not None and _dims(beside) == _dims(inner) and other.type == inner.output.type:
            operands = [inner.inputs[0], beside.inputs[0]]
            return _below(graph, node, inner, node.op, operands[:: 1 if i == 0 else -1])
        if other.type.rank > (1 if _dims(inner)[-1] == -1 else 0):
            continue
        operands = [inner.inputs[0], other] if i == 0 else [other, inner.inputs[0]]
        return _below(graph, node, inner, node.op, operands)
    return None


def _concat(graph: Graph, node: Node, op: Concat) -> Value | None:
    inners = [_permute_of(v) for v in node.inputs]
    first = inners[0]
    if first is None or op.dim != -1 or _dims(first)[-1] != -1:
        return None
    operands = [i.inputs[0] for i in inners if i is not None and _dims(i) == _dims(first)]
    if len(operands) != len(inners):
        return None
    return _below(graph, node, first, op, operands)


def _permute_of(value: Value) -> Node | None:
    node = value.producer
    return node if node is not None and isinstance(node.op, Permute) else None


def _dims(node: Node) -> tuple[int, ...]:
    assert isinstance(node.op, Permute)
    return node.op.dims


def _below(graph: Graph, node: Node, permute: Node, op: Op, operands: list[Value]) -> Value:
    done = graph.insert_before(node, op, operands)
    return graph.insert_before(node, permute.op, [done.output]).output
