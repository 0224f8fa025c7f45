"""Fuse the quantization of a norm's result into the norm.

    quantize_rows(norm(x, w))   =>   norm(x, w) {quantize}

Only where nothing else reads the norm; a fused residual sum stays the first result.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph
from ..ir.ops import Norm, QuantizeRows


def fuse_norm_quantize(graph: Graph) -> bool:
    """Fuse every such pair; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, QuantizeRows):
            continue
        norm = node.inputs[0].producer
        if norm is None or not isinstance(norm.op, Norm) or len(node.inputs[0].users) != 1:
            continue
        if node.inputs[0] is not norm.outputs[-1] or node.inputs[0] in graph.outputs:
            continue
        fused = graph.insert_before(norm, replace(norm.op, quantize=True), norm.inputs)
        if norm.op.add:
            graph.replace_uses(norm.outputs[0], fused.outputs[0])
        for old, new in zip(node.outputs, fused.outputs[-3:], strict=True):
            graph.replace_uses(old, new)
        graph.erase_unread(node)
        changed = True
    return changed
