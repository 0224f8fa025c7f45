"""Columns that a checkpoint has sorted: the input is reordered instead, where blocks are kept."""

import numpy as np
import pytest
import torch
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import Gather, Linear
from llmc.ir.phase import Phase
from llmc.ir.recipe import CheckpointTensor, Computed
from llmc.ir.types import DType, Sym, TensorType
from llmc.passes.order_columns import order_columns
from llmc.passes.quantize import SCHEMES
from llmc.weights import recipes as rec

pytestmark = pytest.mark.fast

N, K = 8, 64
STORED = np.random.default_rng(2).normal(size=(N, K)).astype(np.float32)


def constant(name: str, order: np.ndarray, stored: str = "int4") -> Value:
    """A weight whose column i is stored at `order[i]`."""
    index = Computed.of("index", order)
    recipe = rec.Take(CheckpointTensor(name, stored, (N, K)), 1, index)
    return Graph.constant(name, recipe, TensorType(DType.F32, (N, K)))


def graph_of(*weights: Value) -> Graph:
    graph = Graph("main", phase=Phase.MODEL)
    x = graph.add_input("x", TensorType(DType.F32, (Sym("T"), K)))
    graph.outputs = [graph.append(Linear(), [x, weight]).output for weight in weights]
    return graph


def values(value: Value) -> torch.Tensor:
    """What a constant means: every checkpoint tensor is `STORED`."""
    recipe = value.recipe
    if isinstance(recipe, Computed):
        return torch.from_numpy(np.array(recipe.value))
    array = STORED[:, recipe.index.value] if isinstance(recipe, rec.Take) else STORED
    return torch.from_numpy(array)


def count(graph: Graph) -> int:
    return sum(isinstance(node.op, Gather) for node in graph.nodes)


def test_layers_of_one_order_share_a_gather_and_keep_their_meaning() -> None:
    random = np.random.default_rng(3)
    one, other = random.permutation(K), random.permutation(K)
    graph = graph_of(constant("q", one), constant("k", one), constant("v", other))
    x = torch.from_numpy(random.normal(size=(5, K)).astype(np.float32))
    before = interpret(graph, {"x": x}, values)
    assert order_columns(graph, SCHEMES["int4"])
    assert count(graph) == 2
    assert all(
        isinstance(node.inputs[1].recipe, CheckpointTensor)
        for node in graph.nodes
        if isinstance(node.op, Linear)
    )
    for old, new in zip(before, interpret(graph, {"x": x}, values), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)
    assert not order_columns(graph, SCHEMES["int4"])


@pytest.mark.parametrize(
    ("order", "stored", "scheme"),
    [
        (np.arange(K)[::-1], "int4", "f32"),
        (np.arange(K)[::-1], "f32", "int4"),
        (np.arange(K)[::-1], "nf4", "int4"),
        (np.arange(K) // 2 * 2, "int4", "int4"),
    ],
    ids=["no blocks wanted", "no blocks there", "blocks that no format holds", "a column twice"],
)
def test_what_stays(order: np.ndarray, stored: str, scheme: str) -> None:
    graph = graph_of(constant("w", order, stored))
    before = str(graph)
    assert not order_columns(graph, SCHEMES[scheme])
    assert str(graph) == before
