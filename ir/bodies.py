"""Bodies of ops as graphs, and graphs as bodies (`ir/ops/body.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from .graph import Graph, Node, Value
from .ops import BodyOp, Op, OpBody
from .phase import Phase
from .recipe import Scalar
from .scalar import scalar


def graph_of(body: OpBody, name: str = "body", phase: Phase = Phase.TRACED) -> Graph:
    """A graph that computes the body: inputs `arg0`, `arg1`, …, outputs in the body's order."""
    graph = Graph(name, phase)
    values = [graph.add_input(f"arg{i}", type) for i, type in enumerate(body.inputs)]
    for each in body.ops:
        operands = [
            scalar(o.value, o.of) if isinstance(o, Scalar) else values[o] for o in each.operands
        ]
        values += graph.append(each.op, operands).outputs
    graph.outputs = [values[number] for number in body.outputs]
    return graph


def body_of(graph: Graph) -> OpBody:
    """The graph as a body.

    Raises:
        ValueError: it reads constants that aren't literal scalars.
    """
    return make_body(graph.inputs, graph.nodes, graph.outputs)


def make_body(inputs: list[Value], nodes: Iterable[Node], outputs: list[Value]) -> OpBody:
    """The body of `nodes`, in order, which read only `inputs`, literal scalars and one another.

    Raises:
        ValueError: they read something else.
    """
    numbers = {value: i for i, value in enumerate(inputs)}
    made = []
    for node in nodes:
        operands: list[int | Scalar] = []
        for value in node.inputs:
            if isinstance(value.recipe, Scalar) and value not in numbers:
                operands.append(value.recipe)
            elif value in numbers:
                operands.append(numbers[value])
            else:
                raise ValueError(f"a body reads {value}, which is no input of it")
        made.append(BodyOp(node.op, tuple(operands)))
        numbers |= {value: len(numbers) + i for i, value in enumerate(node.outputs)}
    return OpBody(tuple(v.type for v in inputs), tuple(made), tuple(numbers[v] for v in outputs))


def bodies_in(op: Op) -> dict[str, OpBody]:
    """The attributes of an op that are bodies, by name."""
    values = {field.name: getattr(op, field.name) for field in fields(op)}
    return {name: value for name, value in values.items() if isinstance(value, OpBody)}
