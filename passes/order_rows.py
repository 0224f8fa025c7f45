"""Order the rows of a projection whose parts its result holds interleaved.

    y = linear(x, w); q, k = y as [T, H, 2, D] at 0 and 1   =>   z = linear(x, take(w, i));
                                                                 q, k = z[: H D], z[H D :]

Fused projections of queries, keys and values often have the three of each head side by side. As
ranges of the result, the heads of each lie one behind another, as kernels of attention want them.

Before: MODEL, rotary embeddings raised. After: as before; parts that are one range already, or
that overlap, stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Linear, Reshape, Slice
from ..ir.types import T
from ..weights import recipes as rec


def order_rows(graph: Graph) -> bool:
    """Order the rows of every such projection; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if node.op not in (Linear(), Linear(bias=True)) or node.output.type.rank != 2:
            continue
        parts = _parts(graph, node)
        if all(part.is_range for part in parts):
            continue
        if _overlap(parts):
            debug(f"rows not ordered at {node.scope}: parts of the result overlap")
            continue
        _order(graph, node, parts)
        changed = True
    return graph.erase_dead() or changed


@dataclass(frozen=True)
class _Part:
    """A value that is some columns of a projection's result: `columns`, in the value's order."""

    value: Value
    columns: np.ndarray

    @property
    def is_range(self) -> bool:
        return bool((np.diff(self.columns) == 1).all())


def _parts(graph: Graph, node: Node) -> list[_Part]:
    """What is read of the result of `node`, each behind the views through which it is read."""
    width = node.output.type.shape[1]
    assert isinstance(width, int)
    found: list[_Part] = []
    views = [(node.output, np.arange(width))]
    while views:
        value, columns = views.pop()
        inner = [(user, _seen(user, columns)) for user in value.users]
        if value in graph.outputs or any(seen is None for _, seen in inner):
            found.append(_Part(value, columns.reshape(-1)))
        views += [(user.output, seen) for user, seen in inner if seen is not None]
    return sorted(found, key=lambda part: int(part.columns.min()))


def _seen(user: Node, columns: np.ndarray) -> np.ndarray | None:
    """The columns that a view of columns [T, …] has, in its shape less T; None for other nodes."""
    op = user.op
    if not isinstance(op, Reshape | Slice):
        return None
    shape = user.output.type.shape
    if shape[:1] != (T,) or any(not isinstance(n, int) for n in shape[1:]):
        return None
    if isinstance(op, Reshape):
        return columns.reshape(shape[1:])  # type: ignore[arg-type]
    if -op.dim > columns.ndim:
        return None
    index = [slice(None)] * columns.ndim
    index[op.dim] = slice(op.start, op.stop, op.step)
    return columns[tuple(index)]


def _overlap(parts: list[_Part]) -> bool:
    columns = np.concatenate([part.columns for part in parts])
    return len(np.unique(columns)) != len(columns)


def _order(graph: Graph, node: Node, parts: list[_Part]) -> None:
    x, *weights = node.inputs
    columns = np.concatenate([part.columns for part in parts])
    index = rec.Computed.of("rows", columns)
    taken = [rec.Take(w.recipe, 0, index) for w in weights]
    constants = [
        Graph.constant(w.name, recipe, recipe.type)
        for w, recipe in zip(weights, taken, strict=True)
    ]
    ordered = graph.insert_before(node, node.op, [x, *constants]).output
    start = 0
    for part in parts:
        stop = start + len(part.columns)
        cut = graph.insert_after(ordered.producer, Slice(-1, start, stop), [ordered])  # type: ignore[arg-type]
        value = cut.output
        if value.type.shape != part.value.type.shape:
            value = graph.insert_after(cut, Reshape(part.value.type.shape), [value]).output
        graph.replace_uses(part.value, value)
        start = stop
