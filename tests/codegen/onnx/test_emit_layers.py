"""Linear layers, embeddings, experts, norms and rotations against their references.

Sums differ by their order: 1e-5 of a result's range. Weights in block formats mean the same numbers
for both, so the tolerance is the same for all formats; K is no multiple of a block.
"""

from __future__ import annotations

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import (
    CombineExperts,
    Embedding,
    GroupedLinear,
    Linear,
    Norm,
    Op,
    QuantizeRows,
    Rotary,
    RouteTokens,
)
from llmc.ir.types import DType, Sym, T, TensorType
from onnx_harness import constant, expected, run
from toy_format import registered

pytestmark = pytest.mark.fast

TOKENS = 13
FORMATS = (
    DType.F32, DType.BF16, DType.F16, DType.I8C, DType.I8B, DType.I4S, DType.I4A,
)  # fmt: skip


def given(g: Graph, *shape: int | Sym, dtype: DType = DType.F32) -> Value:
    return g.add_input(f"in{len(g.inputs)}", TensorType(dtype, tuple(shape)))


def weight(name: str, *shape: int, dtype: DType = DType.F32) -> Value:
    generator = torch.Generator().manual_seed(len(name) * 1000 + sum(shape))
    return constant(name, torch.randn(*shape, generator=generator) * 0.3, dtype)


def append(g: Graph, op: Op, *inputs: Value) -> Node:
    return g.append(op, inputs, "layers.0.part")


def close(graph: Graph, inputs: dict[str, torch.Tensor], unsigned: bool = False) -> None:
    results = run(graph, inputs, unsigned=unsigned)
    for got, want in zip(results, expected(graph, inputs), strict=True):
        assert got.dtype == want.dtype
        spread = float((want.max() - want.min()).abs()) if want.numel() else 1.0
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * spread)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("dtype", FORMATS)
def test_linear_formats(dtype: DType, tokens: int, unsigned: bool) -> None:
    g = Graph()
    x = given(g, T, 75)
    bias = weight("bias", 21)
    g.outputs = [append(g, Linear(bias=True), x, weight("w", 21, 75, dtype=dtype), bias).output]
    close(g, {"in0": random(tokens, 75)}, unsigned)


def test_linear_epilogues() -> None:
    g = Graph()
    x, residual = given(g, T, 40), given(g, T, 24)
    op = Linear(residual=True, act="gelu_tanh", softcap=1.5)
    gated = Linear(gated=True, act="silu", out=21)
    g.outputs = [
        append(g, op, x, weight("w", 24, 40), residual).output,
        append(g, gated, x, weight("gu", 64, 40)).output,
    ]
    close(g, {"in0": random(TOKENS, 40), "in1": random(TOKENS, 24, seed=1)})


def test_linear_of_heads_and_of_a_computed_weight() -> None:
    g = Graph()
    x, w = given(g, T, 3, 10), given(g, 7, 10)
    g.outputs = [
        append(g, Linear(), x, weight("w", 6, 10)).output,
        append(g, Linear(), x, w).output,
    ]
    close(g, {"in0": random(TOKENS, 3, 10), "in1": random(7, 10, seed=1)})


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("dtype", FORMATS)
def test_embedding_formats(dtype: DType, unsigned: bool) -> None:
    g = Graph()
    ids, pairs = given(g, T, dtype=DType.I32), given(g, T, 2, dtype=DType.I64)
    table = weight("table", 17, 70, dtype=dtype)
    g.outputs = [append(g, Embedding(), table, v).output for v in (ids, pairs)]
    chosen = torch.randint(0, 17, (TOKENS,)).int()
    close(g, {"in0": chosen, "in1": torch.randint(0, 17, (TOKENS, 2))}, unsigned)


@pytest.mark.parametrize("dialect", ["standard", "ort"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_new_format_needs_nothing_here(unsigned: bool, dialect: str) -> None:
    """Blocks of 16 and codes around 32: what isn't MatMulNBits' goes through DequantizeLinear."""
    with registered() as dtype:
        g = Graph()
        x, ids = given(g, T, 75), given(g, T, dtype=DType.I32)
        table = weight("table", 21, 75, dtype=dtype)
        g.outputs = [
            append(g, Linear(), x, table).output,
            append(g, Embedding(), table, ids).output,
        ]
        inputs = {"in0": random(TOKENS, 75), "in1": torch.randint(0, 21, (TOKENS,)).int()}
        results = run(g, inputs, dialect, unsigned)
        for got, want in zip(results, expected(g, inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("fn", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize(("has_weight", "bias", "add"), [
    (True, False, False), (True, True, True), (False, False, True), (False, False, False),
])  # fmt: skip
def test_norms(fn: str, has_weight: bool, bias: bool, add: bool) -> None:
    g = Graph()
    x, residual = given(g, T, 3, 24), given(g, T, 3, 24)
    op = Norm(fn, eps=1e-5, weight=has_weight, bias=bias, add=add)
    inputs = [x, *([residual] if add else [])]
    inputs += [weight("w", 24)] * has_weight + [weight("bb", 24)] * bias
    g.outputs = list(append(g, op, *inputs).outputs)
    close(g, {"in0": random(TOKENS, 3, 24), "in1": random(TOKENS, 3, 24, seed=1)})


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "dim"), [(24, 24), (24, 12), (10, 4)])
def test_rotary(width: int, dim: int, interleaved: bool, tokens: int) -> None:
    g = Graph()
    x, cos, sin = given(g, T, 3, width), given(g, T, dim // 2), given(g, T, dim // 2)
    g.outputs = [append(g, Rotary(dim, interleaved), x, cos, sin).output]
    tables = {f"in{i}": random(tokens, dim // 2, seed=i) for i in (1, 2)}
    close(g, {"in0": random(tokens, 3, width), **tables})


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.I8C, DType.I8B, DType.I4S])
def test_experts(dtype: DType, tokens: int) -> None:
    """One expert is chosen by nobody; rows come sorted, and back in the order of their tokens."""
    g = Graph()
    x, index, weights = given(g, T, 36), given(g, T, 2, dtype=DType.I64), given(g, T, 2)
    route = append(g, RouteTokens(5), index)
    row_index, offsets, slot = route.outputs
    up = Linear(gated=True, act="silu", out=20)
    op = GroupedLinear(gated=True, act=up.act, out=up.out, bias=True, gather=True)
    bias = weight("bias", 5, 64)
    up_weight, down_weight = (
        weight("up", 5, 64, 36, dtype=dtype), weight("down", 5, 36, 20, dtype=dtype),
    )  # fmt: skip
    middle = append(g, op, x, up_weight, bias, row_index, offsets).output
    down = append(g, GroupedLinear(), middle, down_weight, offsets).output
    g.outputs = [*route.outputs, append(g, CombineExperts(), down, slot, weights).output]
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)])
    close(g, {"in0": random(tokens, 36), "in1": chosen, "in2": random(tokens, 2, seed=3)})


def test_refuses_by_name() -> None:
    g = Graph()
    x = given(g, T, 32)
    rows = append(g, QuantizeRows(), x)
    g.outputs = [append(g, Linear(quantized=True), *rows.outputs, weight("w", 4, 32)).output]
    with pytest.raises(LlmcError, match=r"quantize_rows at layers\.0\.part") as refusal:
        run(g, {"in0": random(2, 32)})
    assert refusal.value.id == "LLMC-E0401"
