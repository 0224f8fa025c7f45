"""Fuse what follows a linear layer into its epilogue.

    act(linear(x))            =>  linear(x) {act}
    residual + linear(x)      =>  linear(x, residual) {residual}

Runs after `fuse_residual_norm`, which has the first claim on residual sums.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, HeadLinear, Linear, Unary
from .fuse_gated import ACTIVATIONS


def fuse_epilogues(graph: Graph) -> bool:
    """Fuse activations and residual sums; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        result = _activation(graph, node) if isinstance(node.op, Unary) else None
        if isinstance(node.op, Binary) and node.op.fn == "add":
            result = _residual(graph, node)
        if result is not None:
            graph.replace_uses(node.output, result)
            graph.erase_unread(node)
            changed = True
    return changed


def _linear(value: Value) -> Node | None:
    """The linear layer that makes `value` for one reader only and that can take an epilogue."""
    node = value.producer
    if node is None or not isinstance(node.op, Linear) or len(value.users) != 1:
        return None
    is_bare = isinstance(node.op, HeadLinear)  # takes no epilogue
    return None if node.op.residual or node.op.softcap or is_bare else node


def _activation(graph: Graph, node: Node) -> Value | None:
    assert isinstance(node.op, Unary)
    linear = _linear(node.inputs[0])
    if node.op.fn not in ACTIVATIONS or linear is None:
        return None
    assert isinstance(linear.op, Linear)
    if linear.op.act or linear.op.gated:
        return None
    return graph.insert_before(node, replace(linear.op, act=node.op.fn), linear.inputs).output


def _residual(graph: Graph, node: Node) -> Value | None:
    for i in (1, 0):
        linear, other = _linear(node.inputs[i]), node.inputs[1 - i]
        if linear is None or type(linear.op) is not Linear or other.is_constant:
            continue
        if linear.op.gated or other.type != node.output.type:
            continue
        if node.inputs[i].type != node.output.type:
            continue
        op = replace(linear.op, residual=True)
        return graph.insert_before(node, op, [*linear.inputs, other], like=linear).output
    return None
