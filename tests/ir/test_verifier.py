"""Every rule of the verifier, broken once on purpose."""

from collections.abc import Callable

import pytest
from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import Unary
from llmc.ir.parser import parse
from llmc.ir.phase import Phase
from llmc.ir.types import DType, T, TensorType
from llmc.ir.verifier import verify

pytestmark = pytest.mark.fast

TEXT = """
graph body: SERVING
input a: f32[T, 4]
%0: f32[T, 4] = neg(a)
output %0

graph main: SERVING
input x: f32[T, 4]
%0: f32[T, 4] = exp(x)
%1: f32[T, 4] = call(%0) {body="body"}
%2: f32[T, 4] = add(%1, %0)
output %2
"""
ROWS = TensorType(DType.F32, (T, 4))


def swap_order(graph: Graph) -> None:
    graph.nodes[0], graph.nodes[2] = graph.nodes[2], graph.nodes[0]


def forget_a_reader(graph: Graph) -> None:
    graph.inputs[0]._uses.clear()


def drop_a_node(graph: Graph) -> None:
    graph.nodes.pop()
    graph.outputs = [graph.nodes[-1].output]


def read_another_graph(graph: Graph) -> None:
    graph.set_inputs(graph.nodes[2], [graph.nodes[1].output, Value(ROWS, name="stray")])


def wrong_type(graph: Graph) -> None:
    graph.nodes[0].output.type = TensorType(DType.BF16, (T, 4))


def refused_operands(graph: Graph) -> None:
    other = graph.add_input("y", TensorType(DType.F32, (3, 5)))
    graph.set_inputs(graph.nodes[2], [graph.nodes[1].output, other])


def op_before_its_phase(graph: Graph) -> None:
    graph.phase = Phase.TRACED


def op_after_its_phase(graph: Graph) -> None:
    lone = parse(
        "graph main: QUANTIZED\ninput q: f32[T, 2, 4]\n"
        "%0: f32[T, 2, 4] = attention(q, q, q) {scale=0.5}\noutput %0"
    )
    graph.inputs, graph.nodes, graph.outputs = lone.inputs, lone.nodes, lone.outputs


def unknown_body(graph: Graph) -> None:
    graph.bodies.clear()


def unfitting_body(graph: Graph) -> None:
    graph.bodies["body"].inputs[0].type = TensorType(DType.F32, (T, 5))
    graph.bodies["body"].nodes[0].output.type = TensorType(DType.F32, (T, 5))


def broken_body(graph: Graph) -> None:
    graph.bodies["body"].nodes[0].op = Unary("isnan")


def undefined_output(graph: Graph) -> None:
    graph.outputs = [Value(ROWS, name="stray")]


def equal_names(graph: Graph) -> None:
    graph.add_input("x", ROWS)


BREAKS: dict[Callable[..., None], str] = {
    swap_order: "before it is defined",
    forget_a_reader: "does not know its reader",
    drop_a_node: "which is gone",
    read_another_graph: "before it is defined",
    wrong_type: "but infers",
    refused_operands: "do not broadcast",
    op_before_its_phase: "not legal in phase TRACED",
    op_after_its_phase: "not legal in phase SERVING",
    unknown_body: "calls an unknown body",
    unfitting_body: "does not fit body",
    broken_body: "but infers",
    undefined_output: "is not defined",
    equal_names: "two inputs are called x",
}


def test_the_graph_is_sound_before() -> None:
    verify(parse(TEXT))


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_each_rule_is_checked(break_it: Callable[[Graph], None]) -> None:
    graph = parse(TEXT)
    break_it(graph)
    with pytest.raises(LlmcError, match=BREAKS[break_it]) as caught:
        verify(graph, after="some_pass")
    assert caught.value.id == "LLMC-E0101"
    assert "main after some_pass" in caught.value.message


def test_an_op_is_allowed_one_phase_early() -> None:
    """A pass that ensures a phase brings in that phase's ops while it runs."""
    text = "graph main: FUSED\ninput x: f32[T, 32]\n"
    text += "%0: i8[T, 32], %1: f32[T, 1], %2: f32[T, 1] = quantize_rows(x)\noutput %0"
    verify(parse(text))
    with pytest.raises(LlmcError, match="not legal in phase MODEL"):
        verify(parse(text.replace("FUSED", "MODEL")))
