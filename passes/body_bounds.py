"""What a recurrence does token by token beyond what it must: as much as makes its rows small.

    matrix' = decay * matrix + outer(k, v)      =>  the outer product is made inside
    y = q matrix'                               =>  and so is y: no matrix goes in or out a token

In: the ops through which a state leads to itself. Out: ops behind them to move into the body, and
ops before them to copy into it. Both are minimum cuts: of all ways to draw the border through cheap
ops, the one with the lowest cost, and of equal ones the one with the fewest ops. What a token takes
across the border costs `_ACROSS` a number, what is done inside 1 a multiplication: ops outside run
for all tokens at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod

import networkx as nx

from ..ir.graph import Graph, Node, Value
from ..ir.ops import (
    Binary,
    Cast,
    Concat,
    Expand,
    MatMul,
    Permute,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Unary,
    Where,
)
from ..ir.types import Sym
from .split_states import state_pairs

_CHEAP = (
    Binary, Cast, Concat, Expand, MatMul, Permute, Reduce, Reshape, Slice, Softmax, Unary, Where,
)  # fmt: skip
_ACROSS = 8
_MOST = 64
"""Ops on either side that are looked at."""


@dataclass(frozen=True)
class Bounds:
    """`moved` ops, those of the cycle among them, and `copied` ones that may stay as well."""

    moved: frozenset[Node]
    copied: frozenset[Node]


def bounds(
    graph: Graph, states: Collection[Value], cycle: set[Node], barred: Collection[Node]
) -> Bounds:
    """Where the body of `cycle` begins and ends; ops of other cycles are `barred`."""
    moved = cycle | _behind(graph, states, cycle, barred)
    return Bounds(frozenset(moved), frozenset(_before(states, moved, barred)))


def _behind(
    graph: Graph, states: Collection[Value], cycle: set[Node], barred: Collection[Node]
) -> set[Node]:
    """The ops that read what the cycle makes and are better done inside."""
    made = [*states, *(v for n in cycle for v in n.outputs)]
    candidates = _readers(graph, made, cycle, barred)
    flow = nx.DiGraph()
    flow.add_edge("inside", "outside", capacity=0)
    leaves = {graph.outputs[0], *(new for old, new in state_pairs(graph) if old not in states)}
    given = {v for n in cycle for v in n.inputs}
    values = [*made, *(v for n in candidates for v in n.outputs)]
    for value in values:
        flow.add_edge(("made", value), ("read", value), capacity=_across(value))
        for user in value.users:
            if user in candidates:
                flow.add_edge(("read", value), user)
            elif user not in cycle:
                flow.add_edge(("read", value), "outside")
        if value in leaves:
            flow.add_edge(("read", value), "outside")
    for value in made:
        flow.add_edge("inside", ("made", value))
    inner = set(values)
    for node in candidates:
        flow.add_edge(node, "outside", capacity=_work(node))
        for value in node.outputs:
            flow.add_edge(node, ("made", value))
        for value in node.inputs:
            if value in inner and value.producer in candidates:
                flow.add_edge(node, value.producer)
            elif value not in inner and value not in given and value.type.is_symbolic:
                flow.add_edge(node, ("given", value))
                flow.add_edge(("given", value), "outside", capacity=_across(value))
    return {n for n in _inside(flow) if isinstance(n, Node)}


def _readers(
    graph: Graph, made: Iterable[Value], cycle: set[Node], barred: Collection[Node]
) -> set[Node]:
    """Cheap ops that read only what the cycle makes, each other, and what doesn't depend on it."""
    found: set[Node] = set()
    depends = set(made)
    out_of_reach: set[Value] = set()
    for node in graph.nodes:
        if node in cycle or not any(v in depends for v in node.inputs):
            continue
        depends.update(node.outputs)
        cheap = isinstance(node.op, _CHEAP) and node not in barred and len(found) < _MOST
        if cheap and not any(v in out_of_reach for v in node.inputs):
            found.add(node)
        else:
            out_of_reach.update(node.outputs)
    return found


def _before(states: Collection[Value], moved: set[Node], barred: Collection[Node]) -> set[Node]:
    """The ops whose results the body reads, that are better done inside."""
    made = {v for n in moved for v in n.outputs} | set(states)
    flow = nx.DiGraph()
    flow.add_edge("inside", "outside", capacity=0)
    pending = list(dict.fromkeys(v for n in moved for v in n.inputs if v not in made))
    for value in pending:
        flow.add_edge("inside", ("given", value))
    seen = set(pending)
    taken = 0
    while pending:
        value = pending.pop(0)
        node = value.producer
        numbers = _across(value) if value.type.is_symbolic else 0
        cheap = node is not None and isinstance(node.op, _CHEAP) and node not in barred
        if node is None or not cheap or taken >= _MOST:
            flow.add_edge(("given", value), "outside", capacity=numbers)
            continue
        taken += 1
        flow.add_edge(("given", value), node, capacity=numbers)
        flow.add_edge(node, "outside", capacity=_work(node))
        for other in node.inputs:
            flow.add_edge(node, ("given", other))
            if other not in seen:
                seen.add(other)
                pending.append(other)
    return {n for n in _inside(flow) if isinstance(n, Node)}


def _inside(flow: nx.DiGraph) -> set:
    """The smallest side of "inside" among the minimum cuts: edges without capacity aren't cut."""
    _, (_, inside) = nx.minimum_cut(flow.reverse(), "outside", "inside")
    return inside


def _across(value: Value) -> int:
    return _ACROSS * _numbers(value)


def _work(node: Node) -> int:
    """Multiplications, or what takes as long."""
    length = node.inputs[0].type.shape[-1] if isinstance(node.op, MatMul) else 1
    if isinstance(node.op, Reduce):
        return sum(map(_numbers, node.inputs))
    return sum(map(_numbers, node.outputs)) * (length if isinstance(length, int) else 1)


def _numbers(value: Value) -> int:
    """Elements for one token."""
    return prod(d.scale if isinstance(d, Sym) else d for d in value.type.shape)
