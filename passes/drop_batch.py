"""Drop the leading unit dimension: [1, T, …] → [T, …].

Activations are packed, so the batch dimension of the traced model is always 1. Ops
name their dimensions from the right and mostly need no change; shapes and permutations
lose their first entry. Where an op really uses the unit dimension, it is put back
around that op. Token ids and positions become i32, as the program's signature has them.

Before: TRACED. After: no value that depends on T has a leading 1 (but where put back).
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import CausalMask, Expand, Full, Op, Permute, Reshape
from ..ir.types import DType, TensorType


def drop_batch(graph: Graph) -> bool:
    """Rebuild the graph without leading unit dimensions; False if its inputs have none."""
    if not all(v.type.rank >= 2 and v.type.shape[0] == 1 for v in graph.inputs):
        return False
    old_nodes, old_outputs = graph.nodes, graph.outputs
    new: dict[Value, Value] = {}
    old_inputs, graph.inputs, graph.nodes = graph.inputs, [], []
    for value in old_inputs:
        dropped = value.type.with_shape(value.type.shape[1:]).with_dtype(DType.I32)
        new[value] = graph.add_input(value.name, dropped, value.role)
    for node in old_nodes:
        for value in node.inputs:
            value._uses.pop(node, None)
        new.update(zip(node.outputs, _rebuild(graph, node, new), strict=True))
    graph.outputs = [new[v] for v in old_outputs]
    return True


def _rebuild(graph: Graph, node: Node, new: dict[Value, Value]) -> list[Value]:
    inputs = [new.get(v, v) for v in node.inputs]
    wanted = [_dropped(v.type) for v in node.outputs]
    try:
        made = graph.append(_drop(node.op, node), inputs, node.scope, node.source)
        if all(_fits(v.type, w) for v, w in zip(made.outputs, wanted, strict=True)):
            return [_reshaped(graph, v, w, node) for v, w in zip(made.outputs, wanted, strict=True)]
        graph.erase(made)
    except (TypeError, ValueError, IndexError):  # it names a dimension that would be gone
        pass
    whole = [_reshaped(graph, i, v.type, node) for i, v in zip(inputs, node.inputs, strict=True)]
    made = graph.append(node.op, whole, node.scope, node.source)
    return [_reshaped(graph, v, w, node) for v, w in zip(made.outputs, wanted, strict=True)]


def _dropped(type: TensorType) -> TensorType:
    if type.rank >= 2 and type.shape[0] == 1:
        return type.with_shape(type.shape[1:])
    return type


def _fits(actual: TensorType, wanted: TensorType) -> bool:
    """Equal but for leading units that broadcasting with a constant has brought back."""
    extra = actual.rank - wanted.rank
    return extra >= 0 and actual.shape == (1,) * extra + wanted.shape


def _drop(op: Op, node: Node) -> Op:
    """The op without its leading unit dimension, where it names one."""
    if (
        isinstance(op, Reshape | Expand | Full | CausalMask)
        and _dropped(node.output.type) != node.output.type
    ):
        return replace(op, shape=op.shape[1:])
    if isinstance(op, Permute) and not node.inputs[0].is_constant:
        rank = len(op.dims)
        if op.dims[0] == -rank and _dropped(node.inputs[0].type) != node.inputs[0].type:
            return replace(op, dims=op.dims[1:])
    return op


def _reshaped(graph: Graph, value: Value, wanted: TensorType, node: Node) -> Value:
    """`value` in the shape of `wanted`; its element type may have become narrower (i32)."""
    if value.type.shape == wanted.shape or value.is_constant:
        return value
    return graph.append(Reshape(wanted.shape), [value], node.scope, node.source).output
