"""Run a graph with the ops' torch references: the oracle for passes and backends.

In: a graph, its inputs as tensors by name and a source of constants. Out: the output
tensors. Pools and caches given as inputs are updated in place, so that successive steps see the
cache. Weights in block formats are evaluated to their dequantized values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from .graph import Graph, Node, Value
from .ops import TORCH_DTYPE, Call
from .recipe import Scalar
from .types import Env, Sym

Constants = Callable[[Value], torch.Tensor]


def interpret(
    graph: Graph, inputs: Mapping[str, torch.Tensor], constants: Constants
) -> list[torch.Tensor]:
    """Evaluate `graph`.

    Raises:
        KeyError: an input is missing.
        ValueError: an input's shape contradicts its type.
    """
    env: dict[str, int] = {}
    values: dict[Value, torch.Tensor] = {}
    for value in graph.inputs:
        tensor = inputs[value.name]
        _bind_symbols(value, tensor, env)
        values[value] = tensor
    return _run(graph, values, env, constants, graph.bodies)


def scalar_tensor(value: Value) -> torch.Tensor | None:
    """The rank-0 tensor of a literal scalar."""
    recipe = value.recipe
    if not isinstance(recipe, Scalar):
        return None
    return torch.tensor(recipe.value, dtype=TORCH_DTYPE[recipe.of])


def _run(
    graph: Graph,
    values: dict[Value, torch.Tensor],
    env: Env,
    constants: Constants,
    bodies: Mapping[str, Graph],
) -> list[torch.Tensor]:
    def read(value: Value) -> torch.Tensor:
        if value not in values:
            literal = scalar_tensor(value)
            values[value] = constants(value) if literal is None else literal
        return values[value]

    for node in graph.nodes:
        operands = [read(v) for v in node.inputs]
        if isinstance(node.op, Call):
            body = bodies[node.op.body]
            inner = dict(zip(body.inputs, operands, strict=True))
            results: Sequence[torch.Tensor] = _run(body, inner, env, constants, bodies)
        else:
            results = _evaluate(node, operands, env)
        if node.op.in_place:
            memory = [operands[place] for place in node.op.in_place]
            kept = [m.copy_(r) for m, r in zip(memory, results, strict=False)]
            results = [*kept, *results[len(kept) :]]
        values.update(zip(node.outputs, results, strict=True))
    return [read(v) for v in graph.outputs]


def _evaluate(node: Node, operands: list[torch.Tensor], env: Env) -> Sequence[torch.Tensor]:
    try:
        result = node.op.bind(env).reference(*operands)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in operands)
        raise RuntimeError(f"{node.op} of {shapes} at {node.scope}: {error}") from error
    results = result if isinstance(result, tuple) else (result,)
    for value, tensor in zip(node.outputs, results, strict=True):
        expected = TORCH_DTYPE.get(value.type.dtype)
        if expected != tensor.dtype and expected is not None:
            raise RuntimeError(f"{node.op} gave {tensor.dtype}, its type is {value.type}")
    return results


def _bind_symbols(value: Value, tensor: torch.Tensor, env: dict[str, int]) -> None:
    if len(tensor.shape) != value.type.rank:
        raise ValueError(f"{value.name} has shape {tuple(tensor.shape)}, not {value.type}")
    for dim, size in zip(value.type.shape, tensor.shape, strict=True):
        if isinstance(dim, Sym):
            count = env.setdefault(dim.name, size // dim.scale)
            if count * dim.scale != size:
                raise ValueError(f"{value.name}: {dim} is {count * dim.scale}, not {size}")
        elif dim != size:
            raise ValueError(f"{value.name} has shape {tuple(tensor.shape)}, not {value.type}")
