"""Reorder inputs instead of weights whose columns a checkpoint stores in another order.

    linear(x, take(w, -1, i))   =>   linear(gather(x, argsort i), w)

Quantizers may sort columns by how much they matter, and scale groups of sorted ones (GPTQ's
act-order). Only in that order are these groups blocks that a format holds, so it is done where the
scheme keeps them. Layers of one input and one order share the gather, and are merged later as ever.
"""

from __future__ import annotations

import numpy as np

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Expand, Gather, Linear
from ..ir.types import DType, TensorType
from ..weights import recipes as rec
from ..weights.held_blocks import held_formats
from .quantize import Scheme


def order_columns(graph: Graph, scheme: Scheme) -> bool:
    """Move the order of every such weight whose blocks `scheme` keeps; True if there was one."""
    gathered: dict[tuple[int, str], Value] = {}
    for node in list(graph.nodes):
        if type(node.op) is not Linear or node.op not in (Linear(), Linear(bias=True)):
            continue
        x, weight, *bias = node.inputs
        taken = weight.recipe
        if not isinstance(taken, rec.Take) or not _is_kept(taken, scheme):
            continue
        key = id(x), taken.index.digest
        if key not in gathered:
            gathered[key] = _gathered(graph, node, np.argsort(taken.index.value))
        ordered = Graph.constant(weight.name, taken.arg, weight.type)
        graph.set_inputs(node, [gathered[key], ordered, *bias])
    return bool(gathered)


def _is_kept(taken: rec.Take, scheme: Scheme) -> bool:
    """A permutation of the columns of blocks that the scheme keeps as they are."""
    index, columns = taken.index.value, taken.shape[-1]
    if len(taken.shape) != 2 or taken.dim != 1 or taken.arg.shape != taken.shape:
        return False
    if not set(held_formats(taken.arg)) & set(scheme.holds):
        return False
    return bool((np.bincount(index, minlength=columns) == 1).all())


def _gathered(graph: Graph, node: Node, order: np.ndarray) -> Value:
    """The columns `order` of the input of `node`."""
    x = node.inputs[0]
    columns = order.astype(np.int32).reshape(*(1,) * (x.type.rank - 1), -1)
    recipe = rec.Computed.of(f"{node.scope}.order", columns)
    constant = Graph.constant(recipe.name, recipe, TensorType(DType.I32, columns.shape))
    index = graph.insert_before(node, Expand(x.type.shape), [constant]).output
    return graph.insert_before(node, Gather(-1), [x, index]).output
