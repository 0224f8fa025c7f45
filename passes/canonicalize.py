"""Remove what computes nothing and bring equal things into one form.

x * 1, x + 0 and casts to the same type go; reshapes and permutes in a row become one; a slice
that is one part of a concatenation becomes that part;
equal nodes are merged; dead nodes are removed. Runs between other passes.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Cast, Concat, Expand, Full, Permute, Reshape, Slice
from ..ir.scalar import Scalar, scalar_of
from ..ir.types import Dim

_IDENTITY = {"mul": 1, "div": 1, "add": 0, "sub": 0}


def canonicalize(graph: Graph) -> bool:
    """Apply until nothing changes; True if anything did."""
    changed = False
    while _sweep(graph) | merge_equal(graph) | graph.erase_dead():
        changed = True
    return changed


def _sweep(graph: Graph) -> bool:
    changed = False
    for node in list(graph.nodes):
        if len(node.outputs) != 1 or not (node.output.users or node.output in graph.outputs):
            continue
        result = _simpler(graph, node)
        if result is not None and result is not node.output:
            graph.replace_uses(node.output, result)
            changed = True
    return changed


def _simpler(graph: Graph, node: Node) -> Value | None:
    """A value that can stand for the node's result, or None."""
    op = node.op
    if isinstance(op, Binary):
        return _identity(node)
    x = node.inputs[0] if node.inputs else None
    if x is None:
        return None
    if isinstance(op, Cast) and x.type.dtype == op.dtype:
        return x
    if isinstance(op, Reshape):
        return _reshape(graph, node, x)
    if isinstance(op, Expand) and x.type.shape == op.shape:
        return x
    if isinstance(op, Permute):
        return _permute(graph, node, x)
    if isinstance(op, Slice):
        return _slice(op, x)
    if isinstance(op, Concat) and len(node.inputs) == 1:
        return x
    return None


def _identity(node: Node) -> Value | None:
    assert isinstance(node.op, Binary)
    neutral = _IDENTITY.get(node.op.fn)
    if neutral is None:
        return None
    a, b = node.inputs
    for x, other in ((a, b), (b, a)):
        if other is a and node.op.fn in ("div", "sub"):
            continue
        if _everywhere(other) == neutral and x.type == node.output.type:
            return x
    return None


def _everywhere(value: Value) -> float | None:
    """The literal number that a value is, or is full of."""
    node = value.producer
    if node is not None and isinstance(node.op, Full):
        value = node.inputs[0]
    return scalar_of(value)


def _reshape(graph: Graph, node: Node, x: Value) -> Value | None:
    if x.type.shape == node.output.type.shape:
        return x
    inner = x.producer
    if inner is not None and isinstance(inner.op, Reshape):
        return graph.insert_before(node, node.op, [inner.inputs[0]]).output
    return None


def _slice(op: Slice, x: Value) -> Value | None:
    """The whole operand, or the part of a concatenation, that the slice is."""
    if (op.start, op.stop, op.step) == (0, x.type.shape[op.dim], 1):
        return x
    inner = x.producer
    if inner is None or not isinstance(inner.op, Concat):
        return None
    start, rank = 0, x.type.rank
    for part in inner.inputs:
        size = part.type.shape[op.dim]
        if inner.op.dim % rank != op.dim % rank or not isinstance(size, int):
            return None
        if (op.start, op.stop, op.step) == (start, start + size, 1):
            return part
        start += size
    return None


def _permute(graph: Graph, node: Node, x: Value) -> Value | None:
    assert isinstance(node.op, Permute)
    dims, rank = node.op.dims, len(node.op.dims)
    if dims == tuple(range(-rank, 0)):
        return x
    inner = x.producer
    if inner is not None and isinstance(inner.op, Permute):
        combined = tuple(inner.op.dims[d] for d in dims)
        return graph.insert_before(node, Permute(combined), [inner.inputs[0]]).output
    if _moves_only_units(x.type.shape, dims):
        return graph.insert_before(node, Reshape(node.output.type.shape), [x]).output
    return None


def _moves_only_units(shape: tuple[Dim, ...], dims: tuple[int, ...]) -> bool:
    rank = len(dims)
    order = [d + rank for d in dims if shape[d] != 1]
    return order == sorted(order)


def merge_equal(graph: Graph) -> bool:
    """Let equal nodes (same op, same operands) share one result; True if any did."""
    seen: dict[tuple, Node] = {}
    changed = False
    for node in list(graph.nodes):
        if node.op.has_effect:
            continue
        key = (node.op, *map(_identity_of, node.inputs))
        first = seen.setdefault(key, node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace_uses(old, new)
            changed = True
    return changed


def _identity_of(value: Value) -> object:
    return value.recipe if isinstance(value.recipe, Scalar) else id(value)
