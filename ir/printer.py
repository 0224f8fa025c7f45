"""Graph → text. Deterministic, readable and parseable (`ir/parser.py`).

    graph main: SERVING
    input token_ids: i32[T] as token_ids
    group 0: paged {window=0, heads=3, key=64, value=64, dtype=bf16} sites=(0, 1)
    const @norm.weight: f32[64] = @norm.weight:f32
    %0: f32[T, 64] = embedding(@embed.weight, token_ids)
    %1: f32[T, 64] = rms_norm(%0, @norm.weight) {eps=1e-05}    # layers.0.norm
    output %1

Results are numbered in execution order; graph inputs go by their bare name, constants by
`@name`, scalars by their value. A name with other characters than `BARE` has is quoted as
in JSON (`@"a b"`). Bodies of ops and of rolled layers come first. Only the lines of model code that
nodes are from (`Node.source`) are left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from .bodies import bodies_in, graph_of
from .graph import Graph, Node, StateGroup, Value
from .ops import OpBody
from .recipe import Scalar
from .types import DType

BARE = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
"""Names of graphs and inputs that need no quotes."""
BARE_GROUP = re.compile(r"\d+|[A-Za-z_][\w.]*", re.ASCII)
"""Names of state groups that need no quotes."""
BARE_CONSTANT = re.compile(r"[\w.|/-]+", re.ASCII)
"""Names of constants that need no quotes; `|` joins the names of what was merged."""
_LITERALS = ("true", "false", "inf", "nan")


def print_graph(graph: Graph) -> str:
    """The whole text, bodies first, each graph ended by a newline."""
    known = _op_bodies(graph)
    parts = [_print_one(graph_of(body, name, graph.phase), {}) for body, name in known.items()]
    parts += [_print_one(body, known) for body in graph.bodies.values()]
    return "\n".join([*parts, _print_one(graph, known)])


def _op_bodies(graph: Graph) -> dict[OpBody, str]:
    """The bodies that ops have as attributes, named in the order of first use."""
    known: dict[OpBody, str] = {}
    for part in (*graph.bodies.values(), graph):
        for node in part.nodes:
            for body in bodies_in(node.op).values():
                known.setdefault(body, f"each_token_{len(known)}")
    return known


def _print_one(graph: Graph, known: dict[OpBody, str]) -> str:
    names = _names(graph)
    lines = [f"graph {format_name(graph.name)}: {graph.phase.name}"]
    lines += [_print_input(value, names[value]) for value in graph.inputs]
    lines += [_print_group(group) for group in graph.groups]
    for value in graph.constants():
        if not isinstance(value.recipe, Scalar):
            lines.append(f"const {names[value]}: {value.type} = {value.recipe}")
    lines += [_print_node(node, names, known) for node in graph.nodes]
    lines += [f"output {names[v]}" for v in graph.outputs]
    return "\n".join(lines) + "\n"


def _print_input(value: Value, name: str) -> str:
    role = "" if value.role is None else f" as {value.role}"
    return f"input {name}: {value.type}{role}"


def _print_group(group: StateGroup) -> str:
    name, sites = format_name(group.name, BARE_GROUP), format_attribute(tuple(group.sites))
    kept = {field.name: getattr(group.geometry, field.name) for field in fields(group.geometry)}
    return f"group {name}: {group.kind} {_format_attributes(kept)} sites={sites}"


def format_name(name: str, bare: re.Pattern[str] = BARE) -> str:
    """The name, in quotes where it could be mistaken for something else."""
    is_bare = bare.fullmatch(name) and (bare is not BARE or name not in _LITERALS)
    return name if is_bare else json.dumps(name)


def _names(graph: Graph) -> dict[Value, str]:
    names = {v: format_name(v.name) for v in graph.inputs}
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
        names[value] = f"@{format_name(name, BARE_CONSTANT)}"
    results = (v for node in graph.nodes for v in node.outputs)
    return names | {v: f"%{i}" for i, v in enumerate(results)}


def _print_node(node: Node, names: dict[Value, str], known: dict[OpBody, str]) -> str:
    results = ", ".join(f"{names[v]}: {v.type}" for v in node.outputs)
    operands = ", ".join(names[v] for v in node.inputs)
    text = f"{results} = {node.op.mnemonic}({operands})"
    attributes = node.op.attributes()
    attributes |= {name: known[body] for name, body in bodies_in(node.op).items()}
    if attributes:
        text += f" {_format_attributes(attributes)}"
    return f"{text}    # {node.scope}" if node.scope else text


def _format_attributes(attributes: dict[str, Any]) -> str:
    inner = ", ".join(f"{k}={format_attribute(v)}" for k, v in attributes.items())
    return f"{{{inner}}}"


def format_attribute(value: Any) -> str:
    """Text of an attribute, as `ir/parser.py` reads it."""
    if isinstance(value, DType):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inner = ", ".join(map(format_attribute, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)
