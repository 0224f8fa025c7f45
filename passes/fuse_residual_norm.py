"""Fuse a residual sum with the norm that reads it.

    s = x + r; y = norm(s, w)   =>   s, y = norm(x, r, w) {add}

The sum has other readers (the next residual); it is the fused op's first result.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node
from ..ir.ops import Binary, Norm


def fuse_residual_norm(graph: Graph) -> bool:
    """Fuse every such pair; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, Norm) or node.op.add:
            continue
        total = node.inputs[0]
        add = total.producer
        if add is None or not (isinstance(add.op, Binary) and add.op.fn == "add"):
            continue
        x, r = add.inputs
        if x.is_constant or r.is_constant or x.type != r.type:
            continue
        if not all(v.is_constant for v in node.inputs[1:]):
            continue  # the fused node stands where the sum was, maybe before these exist
        if not _first_reader(graph, node):
            continue
        fused = graph.insert_before(add, replace(node.op, add=True), [x, r, *node.inputs[1:]], node)
        graph.replace_uses(total, fused.outputs[0], where=lambda n, f=fused: n is not f)
        graph.replace_uses(node.output, fused.outputs[1])
        graph.erase_unread(node)
        graph.erase_unread(add)
        changed = True
    return changed


def _first_reader(graph: Graph, node: Node) -> bool:
    """Whether the norm is the first norm among the sum's readers (only one can have it)."""
    norms = {n for n in node.inputs[0].users if isinstance(n.op, Norm)}
    return len(norms) == 1 or next(n for n in graph.nodes if n in norms) is node
