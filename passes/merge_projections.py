"""Merge linear layers that read the same input: q, k and v become one.

    linear(x, A), linear(x, B), …   =>   y = linear(x, concat(A, B, …)); slices of y

One pass over x (and one quantization of it) instead of several. The slices are views.
Layers with an epilogue stay alone, and so do weights that something else reads (tied heads).
Weights that a checkpoint stores in different block formats stay apart, to keep their bits.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Linear, Slice
from ..weights import recipes as rec
from ..weights.held_blocks import stored_blocks


def merge_projections(graph: Graph) -> bool:
    """Merge every group of two or more; True if there was one."""
    groups: dict[tuple[int, bool, frozenset[str]], list[Node]] = {}
    for node in graph.nodes:
        if _is_plain(node):
            blocks = stored_blocks(node.inputs[1].recipe)
            key = id(node.inputs[0]), len(node.inputs) == 3, blocks
            groups.setdefault(key, []).append(node)
    changed = False
    for nodes in groups.values():
        if len(nodes) > 1:
            _merge(graph, nodes)
            changed = True
    return changed


def _is_plain(node: Node) -> bool:
    """A linear layer without epilogue, on constants that nothing else reads."""
    if type(node.op) is not Linear or node.op not in (Linear(), Linear(bias=True)):
        return False
    return all(v.is_constant and len(v.users) == 1 for v in node.inputs[1:])


def _merge(graph: Graph, nodes: list[Node]) -> None:
    first = nodes[0]
    operands = [first.inputs[0]]
    for i in range(1, len(first.inputs)):
        operands.append(_concatenated([n.inputs[i] for n in nodes]))
    merged = graph.insert_before(first, first.op, operands)
    start = 0
    for node in nodes:
        n = node.output.type.shape[-1]
        assert isinstance(n, int)
        part = graph.insert_after(merged, Slice(-1, start, start + n), [merged.output], like=node)
        graph.replace_uses(node.output, part.output)
        graph.erase(node)
        start += n


def _concatenated(constants: list[Value]) -> Value:
    recipe = rec.concat([v.recipe for v in constants])
    name = "|".join(v.name for v in constants)
    return Graph.constant(name, recipe, constants[0].type.with_shape(recipe.shape))
