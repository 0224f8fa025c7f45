"""Roll repeated layers: layers become calls, in order, of a small set of bodies.

A layer is a contiguous run of nodes whose module path shares a numbered prefix
(`layers.3`, `h.3`). Two layers with the same ops, wired alike and with operands of the same
types share a body; weights, pools, tables and activations are operands of the call. Real
models give sequences like A B B B B B or A A A A A B. Compile time and code size then don't
grow with depth. A run that occurs once stays inline.

Values that only depend on positions (rotary tables) are hoisted before the first layer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Call
from ..ir.roles import Role, StepArray, without_number
from ..ir.scalar import scalar_of

_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.|$)")


@dataclass
class _Segment:
    """A run of nodes with what it reads from and gives to the rest of the graph."""

    nodes: list[Node]
    operands: list[Value]
    results: list[Value]
    key: tuple


def roll_layers(graph: Graph) -> bool:
    """Move repeated layers into `graph.bodies`; True if there were, or tables to hoist."""
    if graph.bodies:
        return False  # rolled already; calls of calls would gain nothing
    hoisted = _hoist_tables(graph)
    runs = _runs(graph)
    segments = {i: _segment(graph, run) for i, (layer, run) in enumerate(runs) if layer}
    counts = Counter(s.key for s in segments.values())
    rolled = {i: s for i, s in segments.items() if counts[s.key] > 1}
    keys = dict.fromkeys(segment.key for segment in rolled.values())
    names = {key: f"layer_{_letters(number)}" for number, key in enumerate(keys)}
    # All bodies before any use is replaced: operands of a later segment are results of an earlier.
    for segment in rolled.values():
        name = names[segment.key]
        if name not in graph.bodies:
            graph.bodies[name] = _body(name, graph, segment)
    graph.replace_nodes(_with_calls(graph, runs, rolled, names))
    return bool(rolled) or hoisted


def _letters(number: int) -> str:
    """0 → a, 25 → z, 26 → aa, … as columns of a sheet are named."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _with_calls(
    graph: Graph,
    runs: list[tuple[str, list[Node]]],
    rolled: dict[int, _Segment],
    names: dict[tuple, str],
) -> list[Node]:
    """The execution order with each rolled segment replaced by a call, whose results are read."""
    order: list[Node] = []
    calls: list[tuple[_Segment, Node]] = []
    for i, (_, run) in enumerate(runs):
        segment = rolled.get(i)
        if segment is None:
            order += run
            continue
        op = Call(names[segment.key], tuple(v.type for v in segment.results))
        call = graph.append(op, segment.operands, run[0].scope)
        order.append(call)
        calls.append((segment, call))
    for segment, call in calls:
        inside = set(segment.nodes)
        for old, new in zip(segment.results, call.outputs, strict=True):
            graph.replace_uses(old, new, where=lambda n, inside=inside: n not in inside)
    return order


def layer_of(node: Node) -> str:
    """The module path up to the layer's number, "" outside of layers."""
    found = _LAYER.match(node.scope)
    return found.group(0) if found else ""


def _hoist_tables(graph: Graph) -> bool:
    """Move nodes that read only positions and constants to the front, in order."""
    tables: set[Value] = {v for v in graph.inputs if v.role is StepArray.POSITIONS}
    front, rest = [], []
    for node in graph.nodes:
        if node.inputs and all(v.is_constant or v in tables for v in node.inputs):
            tables.update(node.outputs)
            front.append(node)
        else:
            rest.append(node)
    changed = graph.nodes != front + rest or any(node.scope for node in front)
    graph.nodes = front + rest
    for node in front:
        node.scope = ""
    return changed


def _runs(graph: Graph) -> list[tuple[str, list[Node]]]:
    """Maximal runs of nodes of the same layer ("" outside of layers)."""
    runs: list[tuple[str, list[Node]]] = []
    for node in graph.nodes:
        layer = layer_of(node)
        if not runs or runs[-1][0] != layer:
            runs.append((layer, []))
        runs[-1][1].append(node)
    return runs


def _segment(graph: Graph, nodes: list[Node]) -> _Segment:
    """Operands in the order of first use, results in order, and a key of the structure."""
    inside = {v: (i, j) for i, n in enumerate(nodes) for j, v in enumerate(n.outputs)}
    members = set(nodes)
    operands: dict[Value, int] = {}
    key: list[tuple] = []
    for node in nodes:
        refs: list[object] = [node.op]
        for value in node.inputs:
            if value in inside:
                refs.append(inside[value])
            elif scalar_of(value) is not None:
                refs.append(value.recipe)
            else:
                refs.append((operands.setdefault(value, len(operands)), str(value.type)))
        key.append(tuple(refs))
    results = [v for v in inside if v in graph.outputs or any(u not in members for u in v.users)]
    key.append(tuple(inside[v] for v in results))
    return _Segment(nodes, list(operands), results, tuple(key))


def _body(name: str, graph: Graph, segment: _Segment) -> Graph:
    """The segment's nodes again, over inputs instead of its operands."""
    body = Graph(name, graph.phase)
    new: dict[Value, Value] = {}
    for i, value in enumerate(segment.operands):
        new[value] = body.add_input(f"arg{i}", value.type, _role_inside(value))
    for node in segment.nodes:
        scope = _LAYER.sub("", node.scope).lstrip(".")
        made = body.append(node.op, [new.get(v, v) for v in node.inputs], scope, node.source)
        new.update(zip(node.outputs, made.outputs, strict=True))
    body.outputs = [new[v] for v in segment.results]
    return body


def _role_inside(operand: Value) -> Role | None:
    """A table's or state's kind of role; state that an earlier node wrote is state still."""
    source = operand.state or operand
    return without_number(source.role)
