"""How many positions a model's tables have rows for.

In: a traced graph. Out: the first position whose row would lie outside of a table that is read by
position (learned or sinusoidal embeddings, token types by position). Which row that is, is
evaluated: models add offsets, or begin behind a row for padding.
"""

from __future__ import annotations

import torch

from ...ir.graph import Graph, Node, Value
from ...ir.interpreter import scalar_tensor
from ...ir.ops import Embedding, Gather
from ...ir.roles import StepArray
from ...ir.types import Sym, T, numel
from ...weights.recipes import Computed

_Known = dict[Value, torch.Tensor | None]


def positions_held(graph: Graph, most: int) -> int:
    """How many positions from 0 on, but no more than `most`, have a row in all tables."""
    positions = graph.input_as(StepArray.POSITIONS)
    held = most
    known: _Known = {} if positions is None else {positions: torch.arange(most)[None]}
    for node in graph.nodes:
        rows = _table_rows(node)
        if rows is not None:
            index = _evaluated(node.inputs[1], known, most)
            if index is not None:
                outside = torch.nonzero((index.reshape(-1) >= rows) | (index.reshape(-1) < 0))
                held = min(held, int(outside[0]) if len(outside) else held)
    return held


def _table_rows(node: Node) -> int | None:
    """Rows of a look-up's table; None for other ops and for tables of the step's tokens."""
    if isinstance(node.op, Embedding):
        rows = node.inputs[0].type.shape[0]
    elif isinstance(node.op, Gather):
        rows = node.inputs[0].type.shape[node.op.dim]
    else:
        return None
    return rows if isinstance(rows, int) else None


def _evaluated(value: Value, known: _Known, most: int) -> torch.Tensor | None:
    """The values of an index that is computed of positions alone, one for each; else None."""
    if value not in known:
        known[value] = _computed(value, known, most)
    return known[value]


def _computed(value: Value, known: _Known, most: int) -> torch.Tensor | None:
    if value.is_constant:
        if isinstance(value.recipe, Computed):
            return torch.from_numpy(value.recipe.value.copy())
        return scalar_tensor(value)
    node = value.producer
    if node is None or len(node.outputs) > 1 or not _is_index(value):
        return None
    operands = [_evaluated(v, known, most) for v in node.inputs]
    if not operands or any(v is None for v in operands):
        return None
    try:
        return node.op.bind({"T": most}).reference(*operands)  # type: ignore[arg-type,return-value]
    except (IndexError, RuntimeError):  # a look-up that ends earlier, which has been seen by itself
        return None


def _is_index(value: Value) -> bool:
    """Whether it is of whole numbers (or of yes and no), at most one for each token."""
    symbols = [dim for dim in value.type.shape if isinstance(dim, Sym)]
    one_each = len(symbols) < 2 and numel(value.type.shape) in (1, T)
    return one_each and not value.type.dtype.is_float
