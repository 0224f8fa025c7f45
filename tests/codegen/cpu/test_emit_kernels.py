"""Ops that become kernel calls, natively against their references, on odd shapes and views.

What is tested is the call: sizes, strides, operands, epilogues (the kernels have their own
tests). Tolerances, relative to the range of a result: f32 sums in another order 1e-5; block
formats 2e-2, since a code may round the other way; bf16 inputs are rounded to 8 bits, 2e-2.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graph_harness import NativeGraphs, compile_graphs, constant
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import (
    Binary,
    CombineExperts,
    Embedding,
    GroupedLinear,
    HeadLinear,
    Linear,
    Norm,
    Op,
    Permute,
    QuantizeRows,
    Reshape,
    Rotary,
    RouteTokens,
    Slice,
    Softmax,
    TopK,
    Unary,
)
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, Sym, T, TensorType

Build = Callable[[Graph], None]
CASES: dict[str, Build] = {}
TOLERANCE: dict[str, float] = {}
TOKENS = 13


def case(name: str, tolerance: float = 1e-5) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES[name], TOLERANCE[name] = build, tolerance
        return build

    return add


def given(g: Graph, *shape: int | Sym, dtype: DType = DType.F32) -> Value:
    return g.add_input(f"in{len(g.inputs)}", TensorType(dtype, tuple(shape)))


def weight(name: str, *shape: int, dtype: DType = DType.F32) -> Value:
    generator = torch.Generator().manual_seed(len(name) * 1000 + sum(shape))
    return constant(name, torch.randn(*shape, generator=generator) * 0.3, dtype)


def result(g: Graph, op: Op, *inputs: Value) -> Value:
    return g.append(op, inputs).outputs[0]


def _linear(dtype: DType) -> Build:
    def build(g: Graph) -> None:
        """A slice of a wider value as input, 21 outputs, bias; and a gated layer."""
        x = result(g, Slice(-1, 3, 53), given(g, T, 61))
        w, bias = weight("w", 21, 50, dtype=dtype), weight("bias", 21)
        gate = weight("gate", 64, 50, dtype=dtype)
        operands = [x]
        quantized = dtype not in (DType.F32, DType.BF16)
        if quantized:
            operands = list(g.append(QuantizeRows(), [x]).outputs)
        plain = result(g, Linear(bias=True, act="gelu", quantized=quantized), *operands, w, bias)
        gated = Linear(gated=True, act="silu", out=23, quantized=quantized)
        g.outputs = [plain, result(g, gated, *operands, gate)]

    return build


for _dtype in (DType.F32, DType.BF16, DType.I8C, DType.I8B, DType.I4S, DType.I4A):
    case(f"linear_{_dtype}", 1e-5 if _dtype == DType.F32 else 2e-2)(_linear(_dtype))


@case("linear_residual_in_place")
def _(g: Graph) -> None:
    x = given(g, T, 40)
    doubled = result(g, Binary("add"), x, x)
    y = result(g, Linear(residual=True, softcap=3.0), x, weight("w", 40, 40), doubled)
    g.outputs = [result(g, Unary("neg"), y)]


@case("linear_on_heads")
def _(g: Graph) -> None:
    """Rows are (token, head) pairs; then heads that lie apart, which are copied first."""
    x = given(g, T, 5, 24)
    apart = result(g, Permute((-2, -3, -1)), result(g, Slice(-1, 0, 16), x))
    g.outputs = [
        result(g, Linear(), x, weight("w", 10, 24)),
        result(g, Linear(), apart, weight("v", 7, 16)),
    ]


def _head_linear(dtype: DType) -> Build:
    def build(g: Graph) -> None:
        """Heads that lie apart, in a slice of wider ones; and heads in another order, copied."""
        x = given(g, T, 5, 61)
        part = result(g, Slice(-1, 3, 53), x)
        turned = result(g, Permute((-3, -1, -2)), result(g, Slice(-1, 0, 40), x))
        quantized = dtype not in (DType.F32, DType.BF16)
        operands = list(g.append(QuantizeRows(), [part]).outputs) if quantized else [part]
        g.outputs = [
            result(
                g, HeadLinear(quantized=quantized), *operands, weight("w", 5, 21, 50, dtype=dtype)
            ),
            result(g, HeadLinear(), turned, weight("v", 40, 7, 5, dtype=dtype)),
        ]

    return build


for _dtype in (DType.F32, DType.BF16, DType.I8C, DType.I4K):
    case(f"head_linear_{_dtype}", 1e-5 if _dtype == DType.F32 else 2e-2)(_head_linear(_dtype))


@case("unquantized_input", 2e-2)
def _(g: Graph) -> None:
    """The backend quantizes the rows itself."""
    w = weight("w", 33, 40, dtype=DType.I4A)
    g.outputs = [result(g, Linear(), given(g, T, 40), w)]


@case("norms")
def _(g: Graph) -> None:
    x, r = given(g, T, 37), given(g, T, 37)
    w, b = weight("w", 37), weight("b", 37)
    added = g.append(Norm("rms_norm", 1e-5, add=True), [x, r, w]).outputs
    both = Norm("layer_norm", 1e-5, bias=True, add=True)
    g.outputs = [
        result(g, Norm("rms_norm", 1e-5), x, w),
        result(g, Norm("rms_norm", 1e-5, weight=False), x),
        result(g, Norm("layer_norm", 1e-5, bias=True), x, w, b),
        result(g, Norm("layer_norm", 1e-5, weight=False), x),
        *added,
        *g.append(both, [x, r, w, b]).outputs,
    ]


@case("norm_of_heads")
def _(g: Graph) -> None:
    """Heads in the middle of a merged projection: no copy."""
    heads = result(g, Reshape((T, 3, 10)), result(g, Slice(-1, 7, 37), given(g, T, 50)))
    w, b = weight("w", 10), weight("b", 10)
    g.outputs = [
        result(g, Norm("rms_norm", 1e-5), heads, w),
        result(g, Norm("layer_norm", 1e-5, bias=True), heads, w, b),
    ]


@case("norm_quantized", 2e-2)
def _(g: Graph) -> None:
    x, r, w = given(g, T, 50), given(g, T, 50), weight("w", 50)
    total, *codes = g.append(Norm("rms_norm", 1e-5, add=True, quantize=True), [x, r, w]).outputs
    projection = weight("p", 20, 50, dtype=DType.I8B)
    g.outputs = [total, result(g, Linear(quantized=True), *codes, projection)]


@case("rotary")
def _(g: Graph) -> None:
    qkv, angle = given(g, T, 60), given(g, T, 4)
    cos, sin = result(g, Unary("cos"), angle), result(g, Unary("sin"), angle)
    heads = result(g, Reshape((T, 4, 12)), result(g, Slice(-1, 12, 60), qkv))
    g.outputs = [
        result(g, Rotary(8), heads, cos, sin),
        result(g, Rotary(8, interleaved=True), heads, cos, sin),
    ]


@case("embedding")
def _(g: Graph) -> None:
    ids = result(g, Binary("remainder"), given(g, T, dtype=DType.I64), scalar(19))
    g.outputs = [
        result(g, Embedding(), weight(f"t.{d}", 19, 40, dtype=d), ids)
        for d in (DType.F32, DType.BF16, DType.I8B, DType.I4A)
    ]


def _experts(dtype: DType) -> Build:
    def build(g: Graph) -> None:
        x = given(g, T, 40)
        scores = result(g, Linear(), x, weight("router", 5, 40))
        weights, index = g.append(TopK(2), [result(g, Softmax(-1), scores)]).outputs
        row_index, offsets, slot = g.append(RouteTokens(5), [index]).outputs
        operands, quantized = [x], dtype not in (DType.F32, DType.BF16)
        if quantized:
            operands = list(g.append(QuantizeRows(), [x]).outputs)
        up = GroupedLinear(gated=True, act="silu", out=32, gather=True, quantized=quantized)
        gate_up = weight("gate_up", 5, 64, 40, dtype=dtype)
        h = result(g, up, *operands, gate_up, row_index, offsets)
        down, bias = weight("down", 5, 24, 32), weight("bias", 5, 24)
        y = result(g, GroupedLinear(bias=True), h, down, bias, offsets)
        g.outputs = [result(g, CombineExperts(), y, slot, weights)]

    return build


case("experts_f32")(_experts(DType.F32))
case("experts_i4a", 2e-2)(_experts(DType.I4A))


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeGraphs:
    graphs = {}
    for name, build in CASES.items():
        graphs[name] = Graph(name)
        build(graphs[name])
    return compile_graphs(graphs, tmp_path_factory.mktemp("kernels"))


def random_input(type: TensorType, seed: int, tokens: int = TOKENS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = [d if isinstance(d, int) else tokens * d.scale for d in type.shape]
    if type.dtype == DType.I64:
        return torch.randint(0, 1000, shape, generator=generator)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("tokens", [TOKENS, 4, 1])
@pytest.mark.parametrize("name", CASES)
def test_matches_reference(native: NativeGraphs, name: str, tokens: int) -> None:
    """Up to four rows are quantized by every thread for itself, more are shared out."""
    graph = native.graphs[name]
    inputs = {v.name: random_input(v.type, i, tokens) for i, v in enumerate(graph.inputs)}
    expected = native.expected(name, inputs)
    for threads in (1, 3):
        for got, want in zip(native.run(name, inputs, threads), expected, strict=True):
            allowed = TOLERANCE[name] * float(want.max() - want.min())
            torch.testing.assert_close(got, want, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", ["norm_of_heads", "rotary", "linear_f32"])
def test_no_copies_where_strides_say_it(native: NativeGraphs, name: str) -> None:
    steps = native.bodies[name].planned.function.schedule.steps
    computing = [n for n in native.graphs[name].nodes if not isinstance(n.op, Reshape | Slice)]
    assert len(steps) == len(computing)


def test_quantized_rows_need_no_barrier(native: NativeGraphs) -> None:
    """The norm delivers its rows, and its operands stay until all threads have read them."""
    planned = native.bodies["norm_quantized"].planned
    norm, linear = planned.function.schedule.steps
    assert planned.barriers == frozenset()
    assert {a.buffer for a in norm.reads} < {a.buffer for a in linear.reads}


def test_residual_takes_its_place(native: NativeGraphs) -> None:
    plan = native.bodies["linear_residual_in_place"].planned.plan
    places = {p.offset for p in plan.placements.values()}
    assert places == {0}
