"""Checks that a graph is well formed and holds only ops that its phase allows.

Run after every pass: values are defined before they are read, uses are what nodes say,
types are what ops infer, calls fit their bodies.
"""

from __future__ import annotations

from collections import Counter

from ..base.errors import LlmcError
from .graph import Graph, Node, Value
from .ops import Call
from .phase import Phase
from .roles import StepArray
from .types import infer_types


def verify(graph: Graph, after: str = "") -> None:
    """Check the graph and its bodies.

    Raises:
        LlmcError: LLMC-E0101, with the rule that is broken and the pass that broke it.
    """
    for problem in [*_problems(graph, graph.bodies), *_body_problems(graph)]:
        where = f" after {after}" if after else ""
        raise LlmcError("LLMC-E0101", f"graph {graph.name}{where}: {problem}")


def _body_problems(graph: Graph) -> list[str]:
    return [p for body in graph.bodies.values() for p in _problems(body, graph.bodies)]


def _problems(graph: Graph, bodies: dict[str, Graph]) -> list[str]:
    defined: set[Value] = set(graph.inputs)
    found = _use_problems(graph)
    for node in graph.nodes:
        for value in node.inputs:
            if not value.is_constant and value not in defined:
                found.append(f"{node} reads {value} before it is defined")
            if not value.is_read_by(node):
                found.append(f"{value} does not know its reader {node}")
        found += _type_problems(node) + _phase_problems(node, graph.phase)
        if isinstance(node.op, Call):
            found += _call_problems(node, bodies)
        defined.update(node.outputs)
    found += [f"output {v} is not defined" for v in graph.outputs
              if not v.is_constant and v not in defined]  # fmt: skip
    return found


def _use_problems(graph: Graph) -> list[str]:
    """Names given twice, and readers that aren't in the graph (they would keep values alive)."""
    names = [v.name for v in graph.inputs]
    found = [f"two inputs are called {n}" for n in sorted(set(names)) if names.count(n) > 1]
    roles = Counter(str(v.role) for v in graph.inputs if isinstance(v.role, StepArray))
    found += [f"{count} inputs are {role}" for role, count in roles.items() if count > 1]
    members = set(graph.nodes)
    for value in [*graph.inputs, *(v for n in graph.nodes for v in n.outputs)]:
        found += [f"{value} is read by {n}, which is gone" for n in value.users if n not in members]
    return found


def _type_problems(node: Node) -> list[str]:
    try:
        types = infer_types(node.op, tuple(v.type for v in node.inputs))
    except (TypeError, ValueError) as error:
        return [f"{node}: {error}"]
    actual = tuple(v.type for v in node.outputs)
    return [] if types == actual else [f"{node} is typed {actual}, but infers {types}"]


def _phase_problems(node: Node, phase: Phase) -> list[str]:
    if phase + 1 < node.op.first_phase or phase > node.op.last_phase:
        return [f"{node} is not legal in phase {phase.name}"]
    return []


def _call_problems(node: Node, bodies: dict[str, Graph]) -> list[str]:
    assert isinstance(node.op, Call)
    body = bodies.get(node.op.body)
    if body is None:
        return [f"{node} calls an unknown body"]
    given, wanted = [v.type for v in node.inputs], [v.type for v in body.inputs]
    results = tuple(v.type for v in body.outputs)
    if given != wanted or results != node.op.results:
        return [f"{node} does not fit body {node.op.body}"]
    return []
