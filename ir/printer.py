"""Graph → text. Deterministic, readable and parseable (`ir/parser.py`).

    graph main: SERVING
    input token_ids: i32[T]
    const @norm.weight: f32[64] = checkpoint("norm.weight", …)
    %0: f32[T, 64] = embedding(@embed.weight, token_ids)
    %1: f32[T, 64] = rms_norm(%0, @norm.weight) {eps=1e-05}    # layers.0.norm
    output %1

Results are numbered in execution order; graph inputs go by their bare name,
constants by `@name`, scalars by their value. Bodies of rolled layers come first.
"""

from __future__ import annotations

from typing import Any

from .graph import Graph, Node, Value
from .scalar import Scalar


def print_graph(graph: Graph) -> str:
    """The whole text, bodies first, each graph ended by a newline."""
    parts = [print_graph(body) for body in graph.bodies.values()]
    return "\n".join([*parts, _print_one(graph)])


def _print_one(graph: Graph) -> str:
    names = _names(graph)
    lines = [f"graph {graph.name}: {graph.phase.name}"]
    lines += [f"input {names[v]}: {v.type}" for v in graph.inputs]
    for value in graph.constants():
        if not isinstance(value.recipe, Scalar):
            lines.append(f"const {names[value]}: {value.type} = {value.recipe}")
    lines += [_print_node(node, names) for node in graph.nodes]
    lines += [f"output {names[v]}" for v in graph.outputs]
    return "\n".join(lines) + "\n"


def _names(graph: Graph) -> dict[Value, str]:
    names = {v: v.name for v in graph.inputs}
    taken: set[str] = set()
    for value in graph.constants():
        if isinstance(value.recipe, Scalar):
            names[value] = str(value.recipe)
            continue
        name, n = value.name, 1
        while name in taken:
            n += 1
            name = f"{value.name}.{n}"
        taken.add(name)
        names[value] = f"@{name}"
    results = (v for node in graph.nodes for v in node.outputs)
    return names | {v: f"%{i}" for i, v in enumerate(results)}


def _print_node(node: Node, names: dict[Value, str]) -> str:
    results = ", ".join(f"{names[v]}: {v.type}" for v in node.outputs)
    operands = ", ".join(names[v] for v in node.inputs)
    text = f"{results} = {node.op.mnemonic}({operands})"
    attributes = node.op.attributes()
    if attributes:
        inner = ", ".join(f"{k}={format_attribute(v)}" for k, v in attributes.items())
        text += f" {{{inner}}}"
    return f"{text}    # {node.scope}" if node.scope else text


def format_attribute(value: Any) -> str:
    """Text of an attribute, such that `parser.parse_attribute` gives it back."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        inner = ", ".join(map(format_attribute, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)
