"""Steps of one token in graph text, and what they give when they are run one by one."""

from __future__ import annotations

import torch
from llmc.ir.graph import Graph
from llmc.ir.interpreter import interpret
from llmc.ir.parser import parse
from llmc.ir.roles import Carried, StepArray
from pass_cases import constant


def random_inputs(graph: Graph, tokens: int) -> dict[str, torch.Tensor]:
    """Ids, positions 0, 1, 2, … and nothing else: one row a token, of what the graph asks for."""
    generator = torch.Generator().manual_seed(11)
    made = {}
    for value in graph.inputs:
        if value.role is StepArray.POSITIONS:
            made[value.name] = torch.arange(tokens)
        elif not isinstance(value.role, Carried):
            made[value.name] = torch.randint(0, 4, (tokens,), generator=generator)
    return made


def one_by_one(text: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first output of the step of one token, for one token after the other."""
    graph = parse(text)
    states = {v.name: v for v in graph.inputs if isinstance(v.role, Carried)}
    kept = {
        name: torch.full(v.type.shape, v.role.initial)  # type: ignore[union-attr, arg-type]
        for name, v in states.items()
    }
    rows = []
    for t in range(len(next(iter(inputs.values())))):
        given = {name: x[t : t + 1].reshape(1, 1) for name, x in inputs.items()}
        logits, *left = interpret(graph, given | kept, constant)
        kept = dict(zip(kept, left, strict=True))
        rows.append(logits.reshape(1, -1))
    return torch.cat(rows)


def all_at_once(graph: Graph, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The output of a graph of tokens."""
    types = {v.name: v.type.dtype for v in graph.inputs}
    given = {n: x.int() if types[n].value == "i32" else x for n, x in inputs.items()}
    (logits,) = interpret(graph, given, constant)
    return logits.reshape(len(logits), -1)
