"""Fuse a gated MLP's two projections and its activation into one linear layer.

    act(linear(x, G)) * linear(x, U)                       =>  linear(x, G|U) {act, gated}
    act(slice(y, 0:n)) * slice(y, n:2n), y = linear(x, W)  =>  the same, W sliced into G and U
    y sliced into even and odd rows                        =>  the same, W's rows taken apart

The weight becomes `interleave_panels(G, U)`: gate and up rows alternate by 16, so that the
kernel has both halves of an output in one register tile. Grouped linears fuse alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, GroupedLinear, Linear, Slice, Unary
from ..ir.tiles import PANEL, round_up
from ..weights import recipes as rec
from ..weights.held_blocks import stored_blocks

ACTIVATIONS = ("relu", "relu2", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
"""Activations that linear kernels have as an epilogue."""


def fuse_gated(graph: Graph) -> bool:
    """Fuse every gated pair; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not (isinstance(node.op, Binary) and node.op.fn == "mul"):
            continue
        for gate, up in (node.inputs, node.inputs[::-1]):
            result = _fuse(graph, node, gate, up)
            if result is not None:
                graph.replace_uses(node.output, result)
                changed = True
                break
    return graph.erase_dead() or changed


def _fuse(graph: Graph, node: Node, gate: Value, up: Value) -> Value | None:
    act = gate.producer
    if act is None or not isinstance(act.op, Unary) or act.op.fn not in ACTIVATIONS:
        return None
    gate_half, up_half = _half(act.inputs[0]), _half(up)
    if gate_half is None or up_half is None:
        return None
    (a, a_rows), (b, b_rows) = gate_half, up_half
    same_input = [v for v in a.inputs if not v.is_constant] == [
        v for v in b.inputs if not v.is_constant
    ]
    same_blocks = stored_blocks(_weight(a).recipe) == stored_blocks(_weight(b).recipe)
    if a.op != b.op or not same_input or gate.type != up.type or not same_blocks:
        debug(f"gated activation not fused at {node.scope}: projections differ")
        return None
    assert isinstance(a.op, Linear)
    out = gate.type.shape[-1]
    assert isinstance(out, int)
    op = replace(a.op, act=act.op.fn, gated=True, out=out)
    operands = [
        _interleaved(v, a_rows, w, b_rows, out, i > op.num_x) if v.is_constant else v
        for i, (v, w) in enumerate(zip(a.inputs, b.inputs, strict=True))
    ]
    return graph.insert_before(node, op, operands, like=a).output


def _weight(node: Node) -> Value:
    assert isinstance(node.op, Linear)
    return node.inputs[node.op.num_x]


Rows = tuple[int, int, int]


def _half(value: Value) -> tuple[Node, Rows] | None:
    """The plain linear layer that `value` is (rows of) and which of its rows."""
    node, rows = value.producer, None
    if node is not None and isinstance(node.op, Slice) and node.op.dim == -1:
        rows = (node.op.start, node.op.stop, node.op.step)
        node = node.inputs[0].producer
    if node is None or not isinstance(node.op, Linear):
        return None
    if node.op not in (Linear(), Linear(bias=True), *_grouped()):
        return None
    weight = _weight(node)
    if not weight.is_constant:
        return None
    n = weight.type.shape[-2]
    assert isinstance(n, int)
    return node, rows or (0, n, 1)


def _grouped() -> tuple[GroupedLinear, ...]:
    return tuple(GroupedLinear(bias=b, gather=g) for b in (False, True) for g in (False, True))


def _interleaved(
    gate: Value, gate_rows: Rows, up: Value, up_rows: Rows, out: int, is_bias: bool
) -> Value:
    """Rows of both constants (weights or biases) in alternating panels."""
    dim = gate.type.rank - 1 if is_bias else gate.type.rank - 2
    parts = [_take(v.recipe, dim, r) for v, r in ((gate, gate_rows), (up, up_rows))]
    assert all(p.shape[dim] == out for p in parts)
    if is_bias and gate.type.rank == 2:  # [E, N]: panels run along the last dimension
        columns = [rec.Reshape(p, (*p.shape, 1)) for p in parts]
        wide = rec.InterleavePanels(*columns)
        recipe: rec.Recipe = rec.Reshape(wide, wide.shape[:-1])
    else:
        recipe = rec.InterleavePanels(*parts)
    assert recipe.shape[dim] == 2 * round_up(out, PANEL)
    name = gate.name if gate is up else f"{gate.name}|{up.name}"
    return Graph.constant(name, recipe, gate.type.with_shape(recipe.shape))


def _take(recipe: rec.Recipe, dim: int, rows: Rows) -> rec.Recipe:
    start, stop, step = rows
    if step == 1:
        return rec.Slice(recipe, dim, start, stop)
    index = np.arange(start, stop, step)
    return rec.Take(recipe, dim, rec.Computed.of(f"rows {start}:{stop}:{step}", index))
