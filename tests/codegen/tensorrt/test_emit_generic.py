"""Every op that isn't attention, as TensorRT layers read back and interpreted, against its
reference. Tolerance 2e-6: functions of f32 that are composed of others here differ by a few ulp."""

from typing import Any

import numpy as np
import pytest
import torch
from llmc.artifact.manifest import Limits
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.ops import (
    Binary,
    Cast,
    Concat,
    CumSum,
    Expand,
    Full,
    Gather,
    Iota,
    MatMul,
    Norm,
    Op,
    Permute,
    Reduce,
    Reshape,
    Rotary,
    Scatter,
    Slice,
    Softmax,
    TopK,
    Unary,
    Where,
)
from llmc.ir.roles import StepArray
from llmc.ir.scalar import scalar
from llmc.ir.types import DType, R, S, T, TensorType
from llmc.weights.recipes import Computed
from llmc.weights.values import RecipeValues

pytest.importorskip("tensorrt_rtx_bindings")

from llmc.codegen.tensorrt.constants import Constants
from llmc.codegen.tensorrt.emit_elementwise import BINARY_FUNCTIONS, UNARY_FUNCTIONS
from llmc.codegen.tensorrt.emitters import check
from llmc.codegen.tensorrt.engine import make_builder
from llmc.codegen.tensorrt.network import make_network
from llmc.codegen.tensorrt.precision import PRECISIONS
from llmc.runtime.executors.tensorrt_library import library
from network_interpreter import NetworkInterpreter

pytestmark = pytest.mark.fast

LIMITS = Limits(max_tokens=8, max_sequences=2, max_context=16, max_logits_rows=2, block_size=23)
RUN = {
    "token_ids": torch.arange(6, dtype=torch.int32).view(2, 3),
    "positions": torch.arange(6, dtype=torch.int32).view(2, 3),
    "start": torch.zeros(2, dtype=torch.int32),
    "logits_rows": torch.tensor([1], dtype=torch.int32),
}
random = np.random.default_rng(0)
X = random.standard_normal((4, 6)).astype(np.float32)
Y = random.standard_normal((4, 6)).astype(np.float32)
POSITIVE = np.abs(X) + 0.1
INTS = random.integers(-9, 9, (4, 6))
NONZERO = np.where(INTS == 0, 3, INTS)[::-1].copy()
FLAGS = X > 0


def check_op(op: Op, *operands: Any) -> None:
    """The op's first output in a network equals its reference."""
    graph = new_graph()
    values = [graph.inputs[x] if isinstance(x, int) else constant(i, x)
              for i, x in enumerate(operands)]  # fmt: skip
    node = graph.append(op, values, "test.module")
    check_outputs(graph, node.outputs[0])


def check_outputs(graph: Graph, value: Value) -> None:
    """`value` in a network equals what the interpreter of graphs says."""
    graph.outputs = [graph.append(Cast(DType.F32), [value]).output]
    check(graph)
    trt: Any = library()
    constants = RecipeValues(None)  # type: ignore[arg-type]
    builder = make_builder(trt)
    network = make_network(trt, builder, graph, LIMITS, PRECISIONS["f32"], Constants(constants), {})
    found = NetworkInterpreter(trt, network.definition, network.net.held).run(RUN)["logits"]
    flat = {n: t.flatten() if n in ("token_ids", "positions") else t for n, t in RUN.items()}
    (expected,) = interpret(graph, flat, lambda v: tensor(constants, v))
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6, equal_nan=True)


def new_graph() -> Graph:
    graph = Graph()
    for name, dim in (("token_ids", T), ("positions", T), ("start", S), ("logits_rows", R)):
        graph.add_input(name, TensorType(DType.I32, (dim,)), StepArray(name))
    return graph


def constant(index: int, array: np.ndarray) -> Value:
    recipe = Computed.of(f"c{index}", array)
    return Graph.constant(f"c{index}", recipe, recipe.type)


def tensor(values: RecipeValues, value: Value) -> torch.Tensor:
    return torch.from_numpy(np.array(values.value(value.recipe)))


@pytest.mark.parametrize("fn", sorted(UNARY_FUNCTIONS))
def test_unary(fn: str) -> None:
    operand = POSITIVE if fn in ("log", "log1p", "log2", "sqrt", "rsqrt") else X
    check_op(Unary(fn), FLAGS if fn == "logical_not" else operand)


@pytest.mark.parametrize("fn", sorted(BINARY_FUNCTIONS))
def test_binary(fn: str) -> None:
    if fn.startswith("logical"):
        check_op(Binary(fn), FLAGS, Y > 0)
        return
    check_op(Binary(fn), POSITIVE if fn == "pow" else X, Y)
    if fn not in ("pow", "div"):
        check_op(Binary(fn), INTS, NONZERO)


@pytest.mark.parametrize(
    "op",
    [
        Reduce("sum", (-1,)), Reduce("mean", (-1,), True), Reduce("amax", (-2,)),
        Reduce("amin", (-1, -2)), Reduce("prod", (-1,)), Reduce("argmax", (-1,)),
        Softmax(-1), Softmax(-1, log=True), Softmax(-2), CumSum(-1), TopK(3),
        Norm("rms_norm", weight=False), Norm("layer_norm", weight=False),
        Reshape((6, 4)), Permute((-1, -2)), Expand((3, 4, 6)), Slice(-1, 1, 6, 2), Slice(-2, 0, 3),
        Cast(DType.I64), Cast(DType.BOOL), Cast(DType.F16),
    ],
    ids=str,
)  # fmt: skip
def test_one_operand(op: Op) -> None:
    check_op(op, X)


def test_reductions_of_flags() -> None:
    check_op(Reduce("any", (-1,)), FLAGS)
    check_op(Reduce("all", (-1,), True), FLAGS)
    check_op(Reduce("sum", (-1,)), FLAGS)


def test_several_operands() -> None:
    index = np.array([[2, 0], [1, 5], [3, 3], [4, 1]])
    check_op(Concat(-1), X, Y)
    check_op(Where(), FLAGS, X, Y)
    check_op(Gather(-1), X, index)
    check_op(Scatter(-1), X, index[:, :1], Y[:, :1])
    check_op(MatMul(), X, Y.T.copy())
    check_op(MatMul(), X[:, :1].copy(), Y[:1])
    check_op(Norm("layer_norm", bias=True, add=True), X, Y, X[0], Y[0])


def test_symbolic_shapes() -> None:
    graph = new_graph()
    positions = graph.append(Reshape((T, 1)), [graph.inputs[1]]).output
    wide = graph.append(Expand((T, 4)), [positions]).output
    ones = graph.append(Full((T, 4)), [scalar(2)]).output
    count = graph.append(Iota(4), []).output
    total = graph.append(Binary("add"), [wide, ones]).output
    check_outputs(graph, graph.append(Binary("mul"), [total, count]).output)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary(interleaved: bool) -> None:
    x = random.standard_normal((5, 2, 12)).astype(np.float32)
    angle = random.standard_normal((5, 4)).astype(np.float32)
    check_op(Rotary(8, interleaved), x, np.cos(angle), np.sin(angle))
