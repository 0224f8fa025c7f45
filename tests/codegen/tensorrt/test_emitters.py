"""What the target refuses, by name and before TensorRT is asked: no GPU, no library."""

import pytest
from llmc.base.errors import LlmcError
from llmc.codegen.tensorrt.emitters import check, supports
from llmc.ir.graph import Graph
from llmc.ir.ops import (
    Binary,
    GroupedLinear,
    Linear,
    Norm,
    Op,
    PagedAttention,
    Reduce,
    Scatter,
    TopK,
    Unary,
)
from llmc.ir.types import DType, TensorType

pytestmark = pytest.mark.fast

NEIGHBOURS: list[tuple[Op, Op]] = [
    (Binary("floor_divide"), Binary("bitwise_and")),
    (GroupedLinear(), GroupedLinear(quantized=True)),
    (Linear(act="silu"), Linear(act="silu", gated=True)),
    (Norm("rms_norm", add=True), Norm("rms_norm", quantize=True)),
    (Reduce("argmax", (-1,)), Reduce("argmax", (-2, -1))),
    (Reduce("sum", (-2, -1)), PagedAttention(1.0)),
    (Scatter(-1), Scatter(-1, accumulate=True)),
    (TopK(3840), TopK(3841)),
    (Unary("isfinite"), Unary("bitwise_not")),
]
"""(an op that it can do, one that is close and that it can't)."""


@pytest.mark.parametrize(("can", "cannot"), NEIGHBOURS, ids=lambda op: str(op))
def test_supports(can: Op, cannot: Op) -> None:
    assert supports(can)
    assert not supports(cannot)


@pytest.mark.parametrize(
    ("op", "type", "what"),
    [
        (Unary("bitwise_not"), TensorType(DType.I32, (4,)), r"Unary\(fn='bitwise_not'\)"),
        (Unary("neg"), TensorType(DType.I8, (4,)), r"Unary\(fn='neg'\) of i8"),
    ],
    ids=["op", "type"],
)
def test_the_op_is_named_with_its_type_and_its_place(op: Op, type: TensorType, what: str) -> None:
    graph = Graph("main")
    graph.append(op, [graph.add_input("x", type)], "model.layers.3.mlp")
    with pytest.raises(LlmcError, match=rf"^.*trt can't do {what} at model\.layers\.3\.mlp") as e:
        check(graph)
    assert e.value.id == "LLMC-E0401"
