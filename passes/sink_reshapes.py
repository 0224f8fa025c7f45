"""Move reshapes that join dimensions behind arithmetic that doesn't mind them.

    unary(reshape(x))       =>  reshape(unary(x))
    norm(reshape(x), w)     =>  reshape(norm(x, w)), where rows are rows of x
    binary(reshape(x), n)   =>  reshape(binary(x, n)), n a number
    binary(reshape(x), y)   =>  reshape(binary(x, reshape(y))), y of the same shape

Models norm and gate on [heads * T, D] or [T, heads * D] what comes as [T, heads, D]. Afterwards
such a chain has one shape, in which its values lie already: nothing is copied, and loops over equal
shapes become one. Stands behind all patterns that look for shapes, before quantization.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Norm, Reshape, Unary
from ..ir.scalar import scalar_of
from ..ir.types import Dim, Sym
from .canonicalize import canonicalize


def sink_reshapes(graph: Graph) -> bool:
    """Apply until nothing changes; True if anything did."""
    changed = False
    while sum(_sink(graph, node) for node in list(graph.nodes)):
        canonicalize(graph)
        changed = True
    return changed


def _sink(graph: Graph, node: Node) -> bool:
    """Compute `node` before a reshape of its operand; True if that was done."""
    at = _place(node)
    if at is None:
        return False
    x = _source(node.inputs[at])
    operands = list(node.inputs)
    operands[at] = x
    if isinstance(node.op, Binary):
        other = operands[1 - at]
        if scalar_of(other) is None:
            if other.type.shape != node.output.type.shape:
                return False
            operands[1 - at] = _reshaped(graph, node, other, x.type.shape)
    elif isinstance(node.op, Norm) and x.type.shape[-1] != node.output.type.shape[-1]:
        return False
    before = graph.insert_before(node, node.op, operands).output
    after = graph.insert_before(node, Reshape(node.output.type.shape), [before]).output
    graph.replace_uses(node.output, after)
    return True


def _reshaped(graph: Graph, node: Node, value: Value, shape: tuple[Dim, ...]) -> Value:
    """`value` in another shape, reshaped where its own chain of functions begins."""
    maker = value.producer
    if maker is not None and isinstance(maker.op, Reshape):
        return _reshaped(graph, node, maker.inputs[0], shape)
    if maker is not None and isinstance(maker.op, Unary) and len(value.users) == 1:
        inner = _reshaped(graph, node, maker.inputs[0], shape)
        return graph.insert_before(node, maker.op, [inner]).output
    return graph.insert_before(node, Reshape(shape), [value]).output


def _place(node: Node) -> int | None:
    """Which operand's reshape may stand behind the node: the one that joins most dimensions."""
    if isinstance(node.op, Norm):
        places = [] if node.op.add or node.op.quantize else [0]
    elif isinstance(node.op, Unary | Binary):
        places = range(len(node.inputs))
    else:
        return None
    shape = node.outputs[0].type.shape
    joined = [
        (_source(node.inputs[i]).type.rank, -i)
        for i in places
        if node.inputs[i].type.shape == shape and _joins(node.inputs[i])
    ]
    return -max(joined)[1] if joined else None


def _joins(value: Value) -> bool:
    """Whether a value is a reshape to fewer dimensions, or one of tokens with something else."""
    if value.producer is None or not isinstance(value.producer.op, Reshape):
        return False
    before, after = _source(value).type.shape, value.type.shape
    return len(before) > len(after) or (_scaled(after) and not _scaled(before))


def _scaled(shape: Sequence[Dim]) -> bool:
    return any(isinstance(dim, Sym) and dim.scale != 1 for dim in shape)


def _source(value: Value) -> Value:
    assert value.producer is not None
    return value.producer.inputs[0]
