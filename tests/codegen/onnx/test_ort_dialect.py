"""ONNX Runtime's own operators, as the dialect `ort` uses them, against the ops' references."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from llmc.ir.graph import Graph, Node
from llmc.ir.ops import (
    Embedding,
    GroupedLinear,
    Linear,
    Norm,
    RouteTokens,
    SlotAttention,
    SlotWrite,
)
from llmc.ir.tiles import BLOCK, PANEL
from llmc.ir.types import DType, T
from llmc.weights.formats.registry import dequantize, quantize
from llmc.weights.row_layout import RowLayout
from llmc.weights.table import WeightTable
from onnx_harness import expected, model_of, run
from test_emit_attention import VARIANTS, graph_of, inputs_of
from test_emit_layers import TOKENS, append, given, random, weight

pytestmark = pytest.mark.fast

IN_BLOCKS = (DType.I8B, DType.I4S, DType.I4A)


def operators(graph: Graph) -> Counter[str]:
    """How many nodes of each operator a graph becomes."""
    model = model_of(graph, WeightTable(RowLayout(unsigned=True)), "ort")
    return Counter(node.op_type for node in model.graph)


def ort(graph: Graph, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return run(graph, inputs, "ort", unsigned=True)


def rounding(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """How far rounding x to int8 in blocks can move x wᵀ: half a step of each block."""
    columns = -x.shape[1] % BLOCK
    x, w = (np.pad(np.abs(m), ((0, 0), (0, columns))) for m in (x, w))
    steps = x.reshape(len(x), -1, BLOCK).max(-1) / 127
    return 0.5 * steps @ w.reshape(len(w), -1, BLOCK).sum(-1).T


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("k", [75, 96])
@pytest.mark.parametrize("dtype", IN_BLOCKS)
def test_products_of_blocks(dtype: DType, k: int, tokens: int) -> None:
    g = Graph()
    x, matrix, bias = given(g, T, k), weight("w", 21, k, dtype=dtype), weight("bias", 21)
    g.outputs = [append(g, Linear(bias=True), x, matrix, bias).output]
    inputs = {"in0": random(tokens, k) + 0.5}  # sums of blocks are not about zero
    (got,), (want,) = ort(g, inputs), expected(g, inputs)
    w = dequantize(quantize(np.array(matrix.recipe.value), dtype))  # type: ignore[union-attr]
    # i4a rounds x only for d (q - 8), which is no larger than twice the weights here.
    bound = rounding(inputs["in0"].numpy(), 2 * w) + 1e-5
    error = (got - want).abs().numpy()
    assert (error <= bound).all()
    assert error.max() <= 0.02 * float(want.std())
    assert operators(g)["MatMulNBits"] == 1


def test_layers_with_one_input_share_the_sums_of_its_blocks() -> None:
    g = Graph()
    x = given(g, T, 75)
    g.outputs = [
        append(g, Linear(), x, weight(name, 21, 75, dtype=DType.I4A)).output for name in "ab"
    ]
    found = operators(g)
    assert (found["MatMul"], found["Pad"], found["Gemm"]) == (1, 1, 2)


def test_what_follows_a_product() -> None:
    g = Graph()
    x, residual = given(g, T, 64), given(g, T, 24)
    op = Linear(residual=True, act="gelu_tanh", softcap=1.5)
    g.outputs = [append(g, op, x, weight("w", 24, 64, dtype=DType.I4S), residual).output]
    inputs = {"in0": random(TOKENS, 64), "in1": random(TOKENS, 24, seed=1)}
    (got,), (want,) = ort(g, inputs), expected(g, inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=0.06)  # inputs in int8, see above


@pytest.mark.parametrize("dtype", [DType.F32, *IN_BLOCKS])
def test_embeddings(dtype: DType) -> None:
    g = Graph()
    ids, pairs = given(g, T, dtype=DType.I32), given(g, T, 2, dtype=DType.I64)
    table = weight("table", 17, 70, dtype=dtype)
    g.outputs = [append(g, Embedding(), table, v).output for v in (ids, pairs)]
    inputs = {"in0": torch.randint(0, 17, (TOKENS,)).int()}
    inputs["in1"] = torch.randint(0, 17, (TOKENS, 2))
    for got, want in zip(ort(g, inputs), expected(g, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6 * float(want.abs().max()))
    assert operators(g)["GatherBlockQuantized"] == (0 if dtype is DType.F32 else 2)


def test_a_head_and_an_embedding_read_the_same_bytes() -> None:
    g = Graph()
    ids, x = given(g, T, dtype=DType.I32), given(g, T, 64)
    table = weight("table", 17, 64, dtype=DType.I8B)
    g.outputs = [append(g, Embedding(), table, ids).output, append(g, Linear(), x, table).output]
    weights = WeightTable(RowLayout(unsigned=True))
    model = model_of(g, weights, "ort")
    places = [
        (one.const_value.offset, one.const_value.length)
        for one in model.graph.initializers.values()
        if isinstance(one.const_value, ir.ExternalTensor)
    ]
    assert len(weights.tensors) == 1
    assert set(places) == set(weights.tensors[0].sections)


@pytest.mark.parametrize("dtype", IN_BLOCKS)
def test_experts(dtype: DType) -> None:
    experts, choices, hidden = 4, 2, 64
    g = Graph()
    x, index = given(g, T, hidden), given(g, T, choices, dtype=DType.I64)
    rows, offsets, _ = append(g, RouteTokens(experts), index).outputs
    w = weight("w", experts, 2 * PANEL, hidden, dtype=dtype)
    g.outputs = [append(g, GroupedLinear(gather=True), x, w, rows, offsets).output]
    chosen = torch.stack([torch.randperm(experts - 1)[:choices] for _ in range(TOKENS)])  # not all
    inputs = {"in0": random(TOKENS, hidden), "in1": chosen}
    (got,), (want,) = ort(g, inputs), expected(g, inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=0.05 * float(want.std()))
    assert operators(g)["MatMulNBits"] == experts


@pytest.mark.parametrize("fn", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize(("has_weight", "bias", "add"), [
    (True, False, True), (True, True, True), (False, False, True), (True, False, False),
])  # fmt: skip
def test_norms(fn: str, has_weight: bool, bias: bool, add: bool) -> None:
    g = Graph()
    vectors = [weight(n, 24) for n, there in (("w", has_weight), ("b", bias)) if there]
    given_rows = [given(g, T, 24) for _ in range(1 + add)]
    op = Norm(fn, eps=1e-5, weight=has_weight, bias=bias, add=add)
    g.outputs = list(append(g, op, *given_rows, *vectors).outputs)
    inputs = {v.name: random(TOKENS, 24, seed=i) for i, v in enumerate(g.inputs)}
    for got, want in zip(ort(g, inputs), expected(g, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    skipping = {"rms_norm": "SkipSimplifiedLayerNormalization"}.get(fn, "SkipLayerNormalization")
    assert operators(g)[skipping] == (add and not (fn == "rms_norm" and bias))


def check_slots(graph: Graph, inputs: dict[str, torch.Tensor]) -> None:
    """Results alike; of caches, which are not bound in place here, what may be read."""
    sequences = inputs["start"].shape[0]
    for value, got, want in zip(
        graph.outputs, ort(graph, inputs), expected(graph, inputs), strict=True
    ):
        if value.type.rank == 4:
            query = inputs["q0"].shape[0] // sequences
            written = torch.arange(got.shape[2]) < (inputs["start"] + query).unsqueeze(1)
            got, want = (x * written.view(sequences, 1, -1, 1) for x in (got, want))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


RUNS = [(1, 1, True), (1, 7, True), (3, 1, True), (4, 11, False)]
"""Sequences, query tokens of each, and whether there is a past: with several tokens of several
sequences the operator takes none."""


@pytest.mark.parametrize(("sequences", "query", "past"), RUNS)
@pytest.mark.parametrize("name", VARIANTS)
def test_attention_and_write_are_one_operator(
    name: str, sequences: int, query: int, past: bool
) -> None:
    graph = graph_of(VARIANTS[name], 4, 2, (16, 16))
    inputs = inputs_of(graph, sequences, query, 37)
    if not past:
        inputs["start"].zero_()
    check_slots(graph, inputs)
    found = operators(graph)
    joined = (0, 4) if VARIANTS[name].slopes else (2, 0)  # the operator knows no slopes
    assert (found["GroupQueryAttention"], found["TensorScatter"]) == joined


@pytest.mark.parametrize("widths", [(12, 12), (16, 24)])
def test_other_heads_are_left_to_onnx(widths: tuple[int, int]) -> None:
    graph = graph_of(VARIANTS["plain"], 4, 2, widths)
    check_slots(graph, inputs_of(graph, 4, 11, 37))
    assert operators(graph)["GroupQueryAttention"] == 0


def test_a_cache_that_two_layers_read_is_left_to_onnx() -> None:
    graph = graph_of(VARIANTS["plain"], 4, 2, (16, 16))
    (write, *_) = (n for n in graph.nodes if isinstance(n.op, SlotWrite))
    (first, *_) = (n for n in graph.nodes if isinstance(n.op, SlotAttention))
    assert isinstance(first, Node)
    again = graph.append(replace(VARIANTS["plain"], scale=0.1), first.inputs)
    graph.outputs.append(again.output)
    assert len({user for cache in write.outputs for user in cache.users}) == 2
    check_slots(graph, inputs_of(graph, 3, 1, 37))
    assert operators(graph)["GroupQueryAttention"] == 1
