"""What linear layers do to their rows themselves: decided before anything is emitted.

In: a graph, and the element types in which values are stored. Out: norms that the linear layers
behind them compute where a step has few rows, and selections of rows that a layer reads by index.

An rms norm is computed by its readers if all of them are linear layers, few enough, and none so
wide that its many programs would each normalize for longer than a launch takes. What is added up
before the norm is then stored by the first of these layers, so whoever reads the sum must come
after it, and numbers must be rounded as the norm's own kernel rounds them: the sum is f32, and the
normalized rows are stored as f32 or as what they are multiplied in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Value
from ...ir.ops import Linear, LogitsRows, Norm
from ...ir.ops.linear import GroupedLinear
from ...ir.types import DType
from .forms import FEW, Form

FEW_ROWS = FEW[-1]
"""Steps of at most so many rows normalize in linear layers: with more, reading rows twice in every
program costs more than a launch."""
MOST_READERS = 3
WIDEST = 32768
"""Weight rows of a layer that normalizes. Heads have more."""


@dataclass(frozen=True, slots=True)
class Prologues:
    """`readers`: of each norm that isn't launched for few rows, its layers in order. `norms`: the
    norm of each of these layers. `selected`: selections that are not launched at all."""

    readers: Mapping[Node, tuple[Node, ...]] = field(default_factory=dict)
    norms: Mapping[Node, Node] = field(default_factory=dict)
    selected: frozenset[Node] = frozenset()


def is_few(form: Form, norm: Node) -> bool:
    """Whether a form has so few rows that the readers of `norm` compute it."""
    return form.most(norm.outputs[-1].type.shape[0]) <= FEW_ROWS


def multiplied_type(weight: DType) -> DType:
    """What rows are rounded to when they meet a weight."""
    return weight if weight in (DType.F32, DType.F16) else DType.BF16


def plan_prologues(
    graph: Graph, stored: Mapping[Value, DType], *, gathers: bool = True
) -> Prologues:
    """What layers of `graph` do. gathers: whether all of them can read rows by index."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    readers = {}
    for node in graph.nodes:
        found = _layers_of(node, graph, stored)
        if found and _sum_comes_late(node, min(order[it] for it in found), graph, stored, order):
            readers[node] = tuple(sorted(found, key=order.__getitem__))
    norms = {layer: norm for norm, layers in readers.items() for layer in layers}
    selected = [it for it in graph.nodes if gathers and _is_selection(it, graph)]
    return Prologues(readers, norms, frozenset(selected))


def _layers_of(node: Node, graph: Graph, stored: Mapping[Value, DType]) -> list[Node]:
    """The readers of a norm, if they all may compute it; else nothing."""
    op = node.op
    if not isinstance(op, Norm) or op.fn != "rms_norm" or op.bias or op.quantize:
        return []
    result = node.outputs[-1]
    users = list(dict.fromkeys(result.users))
    if result in graph.outputs or result.type.rank != 2 or len(users) > MOST_READERS:
        return []
    kept = stored.get(result, DType.F32)
    return users if all(_takes(user, result, kept) for user in users) else []


def _takes(user: Node, rows: Value, kept: DType) -> bool:
    if not _multiplies(user, rows):
        return False
    weight = user.inputs[1].type
    n = weight.shape[0]
    known = weight.dtype.is_float or user.inputs[1].is_constant
    narrow = isinstance(n, int) and n <= WIDEST
    return known and narrow and kept in (DType.F32, multiplied_type(weight.dtype))


def _multiplies(user: Node, rows: Value) -> bool:
    """A linear layer reads `rows` as its rows, and as nothing else."""
    op = user.op
    if not isinstance(op, Linear) or isinstance(op, GroupedLinear) or op.quantized:
        return False
    return [i for i, value in enumerate(user.inputs) if value is rows] == [0]


def _sum_comes_late(
    node: Node, first: int, graph: Graph, stored: Mapping[Value, DType], order: Mapping[Node, int]
) -> bool:
    """The sum before a norm, if there is one, is read after the layer number `first` only."""
    if len(node.outputs) == 1:
        return True
    total = node.outputs[0]
    if total in graph.outputs or stored.get(total, DType.F32) is not DType.F32:
        return False
    return all(order[user] > first for user in total.users)


def _is_selection(node: Node, graph: Graph) -> bool:
    """Rows for logits, which only linear layers read."""
    if not isinstance(node.op, LogitsRows) or node.inputs[0].type.rank != 2:
        return False
    rows = node.output
    return rows not in graph.outputs and all(_multiplies(user, rows) for user in rows.users)
