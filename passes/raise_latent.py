"""Raise attention whose keys and values are projections of one latent a token.

    attention(q, [U c, k_rope], V c)   =>   head_linear(latent_attention(head_linear(q, Uᵀ), c,
                                                                        q_rope, k_rope), V)

Before: linear layers make the keys and values of all heads of a latent c, and keys have a part that
all heads share. After: heads go into the space of latents and back, one matrix a head, and
what a sequence keeps is c and that part (`ir/ops/latent.py`). Elements are recognised by where they
come from, so that no order of splitting and joining heads is special. Where the shared part of
queries and keys is permuted alike, that is left out: it changes no product.

Such attention computes with wider heads. It is raised only where less is read in return; attention
whose "latent" is the whole hidden state is none. Runs before projections are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.debug import debug
from ..ir.graph import Graph, Node, Value
from ..ir.ops import (
    Attention,
    HeadLinear,
    LatentAttention,
    Linear,
    Reshape,
    SelectedAttention,
)
from ..ir.types import Sym, T
from ..weights import recipes as rec
from .origins import Array, Origins, taken


def raise_latent(graph: Graph) -> bool:
    """Raise every instance; True if there was one."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, Attention):
            continue
        result = _raised(graph, node, node.op)
        if isinstance(result, str):
            debug(f"latent attention not raised at {node.scope}: {result}")
            continue
        graph.replace_uses(node.output, result)
        changed = True
    return graph.erase_dead() or changed


@dataclass(frozen=True)
class _Projection:
    """Rows of a weight [N, R] that multiply `latent`, for each head's elements: [H, n]."""

    latent: Value
    weight: Value
    rows: Array

    @property
    def rank(self) -> int:
        return self.weight.recipe.shape[1]

    def matrices(self) -> rec.Recipe:
        """[H, n, R]: a slice of rows where they lie so, else picked one by one."""
        (heads, count), arg = self.rows.shape, self.weight.recipe
        size, start = arg.shape[0] // heads, int(self.rows[0, 0])
        even = np.arange(heads)[:, None] * size + start + np.arange(count)
        if arg.shape[0] == heads * size and start + count <= size and (even == self.rows).all():
            return rec.Slice(rec.Reshape(arg, (heads, size, self.rank)), 1, start, start + count)
        index = rec.Computed.of(f"{self.weight.name}.rows", self.rows.reshape(-1))
        return rec.Reshape(rec.Take(arg, 0, index), (heads, count, self.rank))


@dataclass(frozen=True)
class _Heads:
    """The structure found: which columns of keys are of the latent, and which all heads share."""

    keys: _Projection
    values: _Projection
    of_latent: Array
    shared: Array


def _raised(graph: Graph, node: Node, op: Attention) -> Value | str:
    if op != type(op)(op.scale, op.window, op.softcap, op.sinks):
        return "it has arguments that latent attention lacks"
    origins = Origins()
    q, k, v = (_by_head(origins, value) for value in node.inputs[:3])
    group = len(q) // len(k)
    k, v = k.repeat(group, 0), v.repeat(group, 0)
    found = _heads(origins, k, v)
    if isinstance(found, str):
        return found
    kept = found.values.rank + len(found.shared)
    expanded = len(k) // group * (k.shape[1] + v.shape[1])
    if (kept + found.values.rank) * kept >= (k.shape[1] + v.shape[1]) * expanded:
        return f"{kept} elements a token instead of {expanded} don't pay for wider heads"
    inner = taken(graph, node, origins, q[:, found.of_latent])
    beside = _shared_parts(graph, node, origins, q, k, found.shared)
    if inner is None or beside is None:
        return "queries aren't slices of heads"
    return _emit(graph, node, op, found, [inner, *beside])


def _by_head(origins: Origins, value: Value) -> Array:
    """[H, D] of a value [T, H, D]."""
    return origins.of(value)[0]


def _heads(origins: Origins, k: Array, v: Array) -> _Heads | str:
    values = _projection(origins, v)
    if values is None:
        return "values are no linear layer's"
    of_latent = np.array([_is_of(origins, column, values.latent) for column in k.T])
    shared = (k == k[:1]).all(0) & ~of_latent
    if not (of_latent | shared).all() or not of_latent.any():
        return "keys aren't made of the values' latent and a part that heads share"
    keys = _projection(origins, k[:, of_latent])
    if keys is None:
        return "keys are of several linear layers"
    return _Heads(keys, values, np.flatnonzero(of_latent), np.flatnonzero(shared))


def _projection(origins: Origins, numbers: Array) -> _Projection | None:
    """The one linear layer without a bias that all elements are outputs of."""
    source = origins.source(numbers)
    node = None if source is None else source.producer
    if node is None or type(node.op) is not Linear or node.op != Linear():
        return None
    x, weight = node.inputs
    if not weight.is_constant or not isinstance(_tokens(x), Sym):
        return None
    return _Projection(_flat(x), weight, origins.places(numbers))


def _is_of(origins: Origins, column: Array, latent: Value) -> bool:
    """Whether the elements of a key's column, one a head, are linear in `latent`."""
    found = _projection(origins, column[:, None])
    return found is not None and found.latent is latent


def _flat(x: Value) -> Value:
    """What a value of rows is without the unit dimensions that it was reshaped to."""
    node = x.producer
    if node is not None and isinstance(node.op, Reshape):
        inner = node.inputs[0]
        if inner.type.shape[-1] == x.type.shape[-1] and _tokens(inner) == _tokens(x):
            return _flat(inner)
    return x


def _tokens(x: Value) -> object:
    """T if that is the only dimension before the last, but for units."""
    dims = [dim for dim in x.type.shape[:-1] if dim != 1]
    return dims[0] if dims == [T] else None


def _shared_parts(
    graph: Graph, node: Node, origins: Origins, q: Array, k: Array, columns: Array
) -> list[Value] | None:
    """q_rope [T, H, r] and k_rope [T, 1, r]: in the order of the keys' source if queries have that
    too, else as they are. Empty without a shared part; None where they are no slices."""
    if not len(columns):
        return []
    for order in (columns[np.argsort(k[0, columns], kind="stable")], columns):
        q_rope = taken(graph, node, origins, q[:, order])
        k_rope = taken(graph, node, origins, k[:1, order])
        if q_rope is not None and k_rope is not None:
            return [q_rope, k_rope]
    return None


def _emit(graph: Graph, node: Node, op: Attention, found: _Heads, parts: list[Value]) -> Value:
    inner, *beside = parts
    up, down = found.keys, found.values
    q = _head_linear(graph, node, inner, up.weight, "keys", rec.transpose(up.matrices()))
    c = down.latent
    if c.type.shape != (T, down.rank):
        c = graph.insert_before(node, Reshape((T, down.rank)), [c]).output
    selected = isinstance(op, SelectedAttention)
    latent = LatentAttention(op.scale, op.window, op.softcap, op.sinks, bool(beside), selected)
    operands = [q, c, *beside, *node.inputs[3:]]
    done = graph.insert_before(node, latent, operands).output
    return _head_linear(graph, node, done, down.weight, "values", down.matrices())


def _head_linear(
    graph: Graph, node: Node, x: Value, weight: Value, what: str, recipe: rec.Recipe
) -> Value:
    constant = Graph.constant(f"{weight.name}.{what}", recipe, recipe.type)
    return graph.insert_before(node, HeadLinear(), [x, constant]).output
