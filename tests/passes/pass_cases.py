"""Before/Expected cases for passes, in the IR's own text.

`check` parses Before, runs the pass, compares the text with Expected, and compares what both
graphs compute on random inputs and weights. `check_declined` is for patterns that almost match.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Callable

import numpy as np
import torch
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.parser import parse
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.roles import StepArray
from llmc.ir.types import Env, bind_dim
from llmc.ir.verifier import verify
from llmc.weights.values import RecipeValues

Pass = Callable[[Graph], bool]
ENV: Env = {"T": 5, "S": 2, "S1": 3, "R": 2}
RANGE = 4
"""Random integers are below this, so that they are valid ids, rows and experts."""


class RandomCheckpoint:
    """Weights drawn from a generator that is seeded by the tensor's name."""

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
        values = random.standard_normal(tensor.of).astype(np.float32)
        return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)[rows]

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray):
        raise TypeError(f"{tensor.name} is not stored in blocks")


def constant(value: Value) -> torch.Tensor:
    """The random value of a constant; block formats come dequantized."""
    shape = [d for d in value.type.shape if isinstance(d, int)]
    array = np.array(RecipeValues(RandomCheckpoint()).value(value.recipe))
    dtype = TORCH_DTYPE.get(value.type.dtype, torch.float32)
    return torch.from_numpy(array).reshape(shape).to(dtype)


def compute(graph: Graph) -> list[torch.Tensor]:
    """The outputs for random inputs that depend on the input's name and type only; positions are
    those of one sequence."""
    inputs = {}
    for value in graph.inputs:
        generator = torch.Generator().manual_seed(zlib.crc32(value.name.encode()))
        shape = [bind_dim(d, ENV) for d in value.type.shape]
        dtype = TORCH_DTYPE[value.type.dtype]
        if value.role == StepArray.POSITIONS:
            inputs[value.name] = torch.arange(shape[-1], dtype=dtype).expand(shape)
        elif dtype.is_floating_point:
            inputs[value.name] = torch.randn(shape, generator=generator).to(dtype)
        else:
            inputs[value.name] = torch.randint(0, RANGE, shape, generator=generator, dtype=dtype)
    return interpret(graph, inputs, constant)


def check(run: Pass, before: str, expected: str, tolerance: float = 1e-5) -> Graph:
    """Run the pass on Before: it says that it changed the graph, the text is Expected, and the
    outputs are the same up to `tolerance`, relative and absolute.

    The default allows for float32 sums and products in another order.
    """
    graph = parse(textwrap.dedent(before))
    verify(graph)
    reference = compute(graph)
    assert run(graph)
    verify(graph)
    assert str(graph) == str(parse(textwrap.dedent(expected)))
    for actual, wanted in zip(compute(graph), reference, strict=True):
        torch.testing.assert_close(
            actual.reshape(wanted.shape), wanted, rtol=tolerance, atol=tolerance, check_dtype=False
        )
    check_unchanged(run, graph)
    return graph


def check_unchanged(run: Pass, graph: Graph) -> None:
    """The pass has nothing (more) to do, says so, and leaves the text alone."""
    text = str(graph)
    assert not run(graph)
    assert str(graph) == text


def check_declined(run: Pass, before: str) -> None:
    """The pass leaves Before as it is and says so."""
    graph = parse(textwrap.dedent(before))
    verify(graph)
    check_unchanged(run, graph)
