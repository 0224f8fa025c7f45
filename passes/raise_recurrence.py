"""Hand each token's state to the next: what a token finds becomes a recurrence's.

    y, state' = f(x, state)            =>  y, … = recurrence(x, …) {body=…}     for each cycle
    y = state;  state' = x             =>  y = recurrence(x)                    the token before

The ops through which a state leads to itself have to run token by token, all others run for all
tokens at once: these ops, of all states that lead to one another, are a body, with what
`body_bounds` adds to it.

Before: TRACED, after `split_states`. After: no inputs `Carried` are left, and one output.
"""

from __future__ import annotations

import networkx as nx

from ..ir.bodies import make_body
from ..ir.graph import Graph, Node, Value
from ..ir.ops import Recurrence
from ..ir.scalar import scalar_of
from .body_bounds import Bounds, bounds
from .split_states import set_states, state_pairs

Cycle = tuple[list[Value], set[Node]]
"""States that lead to one another, and the nodes on the way."""


def raise_recurrence(graph: Graph) -> bool:
    """Replace all states; False if the graph isn't the step of a token."""
    cycles = _cycles(graph)
    for states, nodes in cycles:
        barred = {n for _, others in cycles if others is not nodes for n in others}
        _replace(graph, states, bounds(graph, states, nodes, barred))
    return bool(cycles)


def _cycles(graph: Graph) -> list[Cycle]:
    """In the order of the states."""
    pairs = state_pairs(graph)
    flow = nx.DiGraph()
    flow.add_nodes_from(state for state, _ in pairs)
    for node in graph.nodes:
        flow.add_edges_from((value.producer or value, node) for value in node.inputs)
    flow.add_edges_from((left.producer or left, state) for state, left in pairs)
    component = {m: c for c in nx.strongly_connected_components(flow) for m in c}
    found: dict[int, Cycle] = {}
    for state, _ in pairs:
        members = component[state]
        states, _ = found.setdefault(id(members), ([], {m for m in members if isinstance(m, Node)}))
        states.append(state)
    return list(found.values())


def _replace(graph: Graph, states: list[Value], within: Bounds) -> None:
    """Put a recurrence in the place of these states and what lies within the bounds."""
    rest = dict(state_pairs(graph))
    left = [rest.pop(state) for state in states]
    set_states(graph, list(rest.items()))
    nodes = [n for n in graph.nodes if n in within.moved or n in within.copied]
    made = {v for n in nodes for v in n.outputs}
    read = [v for n in nodes for v in n.inputs] + left
    given = dict.fromkeys(v for v in read if v not in made and v not in states)
    rows = [v for v in given if v.type.is_symbolic]
    constants = [v for v in given if not v.type.is_symbolic and scalar_of(v) is None]
    moved = [*states, *(v for n in nodes if n in within.moved for v in n.outputs)]
    results = [v for v in moved if v in graph.outputs or not within.moved >= set(v.users)]
    body = make_body([*rows, *constants, *states], nodes, [*left, *results])
    first = (nodes or [user for v in results for user in v.users])[0]
    op = Recurrence(body, len(rows), len(states))
    new = graph.append(op, [*rows, *constants], first.scope, first.source)
    inner = {*nodes, new}
    for old, value in zip(results, new.outputs, strict=True):
        graph.replace_uses(old, value, where=lambda n: n not in inner)
    graph.replace_nodes(_sorted([n for n in graph.nodes if n not in within.moved]))
    graph.erase_dead()


def _sorted(nodes: list[Node]) -> list[Node]:
    """Nodes after those that they read of, otherwise as near to the given order as can be."""
    place = {node: i for i, node in enumerate(nodes)}
    flow = nx.DiGraph()
    flow.add_nodes_from(nodes)
    for node in nodes:
        flow.add_edges_from((v.producer, node) for v in node.inputs if v.producer in place)
    return list(nx.lexicographical_topological_sort(flow, key=place.__getitem__))
