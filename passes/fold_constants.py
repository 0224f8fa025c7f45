"""Turn nodes that only read constants into weight recipes: `1 + w`, transposed weights, tables.

Structure that recipes know (permute, reshape, slice, concat, sums and products) stays
structured, so that it is evaluated row by row; anything else becomes `Apply`.
No bytes are read.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Binary, Concat, Full, Iota, Permute, Reshape, Slice, TokenCount
from ..ir.scalar import Scalar
from ..ir.types import Sym
from ..weights import recipes as rec


def fold_constants(graph: Graph) -> bool:
    """Replace constant subgraphs by constants; True if any was."""
    changed = False
    for node in list(graph.nodes):
        if node.op.has_effect or isinstance(node.op, TokenCount):
            continue
        if any(not v.is_constant for v in node.inputs):
            continue
        if any(isinstance(d, Sym) for v in node.outputs for d in v.type.shape):
            continue
        operands = [_leaf(v) for v in node.inputs]
        for i, value in enumerate(node.outputs):
            recipe = _recipe(node, operands, value, i)
            graph.replace_uses(value, Graph.constant(_name(node, value), recipe, value.type))
        changed = True
    return graph.erase_dead() or changed


def _leaf(value: Value) -> rec.Recipe:
    return value.recipe.as_leaf() if isinstance(value.recipe, Scalar) else value.recipe


def _name(node: Node, value: Value) -> str:
    """The name of the only tensor that went in, else the scope and the op."""
    names = [v.name for v in node.inputs if not isinstance(v.recipe, Scalar)]
    if len(names) == 1:
        return names[0]
    return f"{node.scope}.{node.op.mnemonic}".lstrip(".")


def _recipe(node: Node, operands: list[rec.Recipe], value: Value, output: int) -> rec.Recipe:
    op = node.op
    shape = tuple(d for d in value.type.shape if isinstance(d, int))
    if isinstance(op, Reshape):
        return rec.Reshape(operands[0], shape)
    if isinstance(op, Permute):
        return rec.permute(operands[0], op.dims)
    if isinstance(op, Slice) and op.step == 1:
        dim = op.dim % len(operands[0].shape)
        return rec.Slice(operands[0], dim, op.start, op.stop)
    if isinstance(op, Concat):
        return rec.concat(operands, op.dim % len(operands[0].shape))
    floats = value.type.dtype.is_float and all(o.dtype.is_float for o in operands)
    if isinstance(op, Binary) and op.fn in ("add", "mul") and floats:
        return rec.Elementwise(op.fn, tuple(operands))
    assert isinstance(op, Full | Iota) or operands, op
    return rec.Apply(op, tuple(operands), value.type, output)
