"""Launches of linear layers as the emitters choose them, in the interpreter, against references.

x is rounded to the type that weights are multiplied in before the reference sees it; sums in f32 of
up to 100 products of numbers around 1 are within 2e-4 of float64's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from launched_program import LaunchedProgram
from llmc.artifact.launch_plan import Pointer
from llmc.base.errors import LlmcError
from llmc.codegen.triton.emitters import emit_node
from llmc.codegen.triton.layout import TRITON_LAYOUT
from llmc.codegen.triton.operands import PlannedLaunch
from llmc.codegen.triton.prologues import plan_prologues
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import GroupedLinear, Linear, Norm, Unary
from llmc.ir.types import DType, Sym, T, TensorType
from llmc.weights.formats.elements import from_bf16, to_bf16
from llmc.weights.formats.registry import dequantize, is_quantized, quantize
from llmc.weights.layout import section_offsets
from llmc.weights.recipes import Cast, CheckpointTensor, Quantize

TYPES = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*i8": torch.int8, "*u8": torch.uint8}


class WeightedProgram(LaunchedProgram):
    """With constants: their bytes by where the weight table puts them."""

    def __init__(self, graph: Graph, env: dict[str, int]) -> None:
        super().__init__(graph, env)
        self.constants: dict[int, np.ndarray] = {}

    def constant(self, dtype: DType, *shape: int, scale: float = 1.0) -> tuple[Value, torch.Tensor]:
        """A packed random matrix, or f32 vector, and the f32 values that it stands for."""
        stored = CheckpointTensor(f"constant{len(self.constants)}", "f32", shape)
        recipe = Quantize(dtype, stored) if is_quantized(dtype) else Cast(stored, dtype)
        value = Value(TensorType(dtype, shape), recipe=recipe)
        plain = torch.randn(shape).numpy() * np.float32(scale)
        if len(shape) == 1:
            self.constants[self.program.weights.plain(value).offset] = plain.view(np.uint8)
            return value, torch.from_numpy(plain)
        held: list[Any] = list(plain.reshape(-1, *shape[-2:]))
        if is_quantized(dtype):
            held = [quantize(each, dtype) for each in held]
            plain = np.stack([dequantize(each) for each in held]).reshape(shape)
        elif dtype is DType.BF16:
            plain = from_bf16(to_bf16(plain))
        tensor = self.program.weights.packed(value)
        data = np.full(tensor.nbytes, 0xA5, np.uint8)
        packed = zip(*(TRITON_LAYOUT.pack(dtype, each) for each in held), strict=True)
        sizes = TRITON_LAYOUT.sections(dtype, shape)
        for at, parts in zip(section_offsets(sizes), packed, strict=True):
            section = np.concatenate(parts)
            data[at : at + len(section)] = section
        self.constants[tensor.offset] = data
        return value, torch.from_numpy(plain)

    def _argument(self, launch: PlannedLaunch, name: str) -> Any:
        operand = launch.operands[name]
        argument = operand.argument
        if not isinstance(argument, Pointer) or argument.space != "weights":
            return super()._argument(launch, name)
        data = torch.from_numpy(self.constants[argument.offset])
        assert len(data) == argument.nbytes
        return data.view(TYPES[operand.type])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def f32(*shape: int | Sym) -> Value:
    return Value(TensorType(DType.F32, shape))


def multiplied(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    return x if dtype is DType.F32 else x.bfloat16().float()


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F8C, DType.I8C, DType.I4K])
@pytest.mark.parametrize("tokens", [3, 70])
def test_a_layer_with_everything(dtype: DType, tokens: int) -> None:
    n, k = 72, 100
    op = Linear(bias=True, residual=True, act="gelu_tanh", softcap=4.0)
    graph = Graph()
    run = WeightedProgram(graph, {"T": tokens})
    (weight, w), (bias, b) = run.constant(dtype, n, k), run.constant(DType.F32, n)
    x, residual = f32(T, k), f32(T, n)
    node = graph.append(op, [x, weight, bias, residual])
    given, added = torch.randn(tokens, k), torch.randn(tokens, n)
    run.give(x, given)
    run.give(residual, added)
    emit_node(run.program, node)
    assert len(run.program.launches) == 1
    run.run(tokens)
    want = op.reference(multiplied(given, dtype).double(), w.double(), b.double(), added.double())
    torch.testing.assert_close(run.tensor(node.output).double(), want, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.I8C, DType.I6K])
def test_a_gated_layer(dtype: DType) -> None:
    out, k, tokens = 40, 64, 9
    op = Linear(act="silu", gated=True, out=out)
    graph = Graph()
    run = WeightedProgram(graph, {"T": tokens})
    weight, w = run.constant(dtype, 96, k, scale=0.2)
    x, given = f32(T, k), torch.randn(tokens, k)
    node = graph.append(op, [x, weight])
    run.give(x, given)
    emit_node(run.program, node)
    run.run(tokens)
    want = op.reference(multiplied(given, dtype).double(), w.double())
    torch.testing.assert_close(run.tensor(node.output).double(), want, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.I4K])
def test_few_rows_are_normalized_by_the_layers(dtype: DType) -> None:
    """Two rows, as a step of few and as one of many: the same bits, and the reference's values."""
    graph, tokens, k = Graph(), 2, 72
    run = WeightedProgram(graph, {"T": tokens})
    (scale, s), (one, w), (two, _) = (
        run.constant(t, *shape)
        for t, shape in ((DType.F32, (k,)), (dtype, (40, k)), (dtype, (9, k)))
    )
    x, residual = f32(T, k), f32(T, k)
    norm = graph.append(Norm("rms_norm", add=True), [x, residual, scale])
    layers = [graph.append(Linear(), [norm.outputs[1], weight]) for weight in (one, two)]
    given, added = torch.randn(tokens, k), torch.randn(tokens, k)
    run.give(x, given)
    run.give(residual, added)
    run.program.prologues = plan_prologues(graph, {})
    assert run.program.prologues.readers == {norm: tuple(layers)}
    for node in graph.nodes:
        emit_node(run.program, node)
    values = [norm.outputs[0], *(layer.output for layer in layers)]
    run.run(2)
    few = [run.tensor(value).clone() for value in values]
    run.run(8)
    assert all(torch.equal(a, run.tensor(v)) for a, v in zip(few, values, strict=True))
    total, rows = norm.op.reference(given, added, s)
    assert torch.equal(few[0], total)
    # Another rounding of the norm in f32 may round an element to bf16 the other way.
    torch.testing.assert_close(few[1], multiplied(rows, dtype) @ w.T, rtol=1e-3, atol=5e-2)


def test_a_norm_is_launched_where_others_read_it() -> None:
    graph, k = Graph(), 16
    x, residual = f32(T, k), f32(T, k)
    scale, weight = Value(TensorType(DType.F32, (k,))), Value(TensorType(DType.F32, (8, k)))
    early = graph.append(Norm("rms_norm", add=True), [x, residual, scale])
    graph.append(Unary("neg"), [early.outputs[0]])  # reads the sum before the layer stores it
    graph.append(Linear(), [early.outputs[1], weight])
    shared = graph.append(Norm("rms_norm"), [x, scale])
    graph.append(Linear(), [shared.output, weight])
    graph.append(Unary("neg"), [shared.output])
    alone = graph.append(Norm("rms_norm"), [x, scale])
    layer = graph.append(Linear(), [alone.output, weight])
    assert plan_prologues(graph, {}).readers == {alone: (layer,)}
    # What is stored in 16 bits would be rounded once more.
    assert plan_prologues(graph, {alone.output: DType.BF16}).readers == {}


def test_experts() -> None:
    experts, n, k, tokens = 5, 40, 64, 7
    op = GroupedLinear(act="relu", gather=True)
    graph = Graph()
    run = WeightedProgram(graph, {"T": tokens})
    weight, w = run.constant(DType.I8C, experts, n, k)
    x = f32(T, k)
    index = Value(TensorType(DType.I32, (Sym("T", 2),)))
    offsets = Value(TensorType(DType.I32, (experts + 1,)))
    node = graph.append(op, [x, weight, index, offsets])
    given = torch.randn(tokens, k)
    chosen = torch.randint(0, tokens, (2 * tokens,), dtype=torch.int32)
    bounds = torch.tensor([0, 9, 9, 10, 10, 14], dtype=torch.int32)
    for value, tensor in ((x, given), (index, chosen), (offsets, bounds)):
        run.give(value, tensor)
    emit_node(run.program, node)
    run.run(tokens)
    want = op.reference(multiplied(given, DType.I8C).double(), w.double(), chosen, bounds)
    torch.testing.assert_close(run.tensor(node.output).double(), want, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("invariant", [True, False])
def test_one_row_of_logits(invariant: bool) -> None:
    """Few rows take no tensor cores where rows may depend on their batch, and only there."""
    n, k = 50, 100
    graph = Graph()
    run = WeightedProgram(graph, {"T": 3, "R": 1})
    run.program.batch_invariant = invariant
    weight, w = run.constant(DType.BF16, n, k)
    x, given = f32(1, k), torch.randn(1, k)
    node = graph.append(Linear(), [x, weight])
    run.give(x, given)
    emit_node(run.program, node)
    functions = [launch.function for launch in run.program.launches]
    assert functions == ["linear.linear_rows"] + ["gemv.gemv_rows"] * (not invariant)
    run.run(3)
    want = multiplied(given, DType.BF16).double() @ w.double().T
    torch.testing.assert_close(run.tensor(node.output).double(), want, rtol=1e-5, atol=2e-4)


def test_what_the_kernels_cannot_do_is_refused() -> None:
    graph = Graph()
    run = WeightedProgram(graph, {"T": 1})
    weight, _ = run.constant(DType.F32, 16, 16)
    x = f32(T, 16)
    node = graph.append(Linear(act="mish"), [x, weight])
    run.give(x, torch.zeros(1, 16))
    with pytest.raises(LlmcError, match="mish"):
        emit_node(run.program, node)
