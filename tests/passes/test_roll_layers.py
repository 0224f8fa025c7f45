"""Repeated layers become calls of one body."""

import pytest
import torch
from llmc.ir.parser import parse
from llmc.ir.verifier import verify
from llmc.passes.roll_layers import roll_layers
from pass_cases import check, check_declined, compute

pytestmark = pytest.mark.fast


def model(layers: list[str], head: str = "") -> str:
    """A chain of layers `op`, each adding its own weight; scopes as traced models have them."""
    lines = ["graph main: SERVING", "input positions: i32[T] as positions", "input x: f32[T, 4]"]
    lines += [f"const @w{i}: f32[4] = @w{i}:f32" for i in range(len(layers))]
    last = "x"
    for i, op in enumerate(layers):
        lines += [
            f"%{2 * i}: f32[T, 4] = {op}({last})    # model.layers.{i}.act",
            f"%{2 * i + 1}: f32[T, 4] = add(%{2 * i}, @w{i})    # model.layers.{i}",
        ]
        last = f"%{2 * i + 1}"
    return "\n".join([*lines, head, f"output {last}"])


def test_equal_layers_share_a_body() -> None:
    """Weights and activations are operands; scopes inside are relative to the layer."""
    check(
        roll_layers,
        model(["neg", "neg", "neg"]),
        """
        graph layer_a: SERVING
        input arg0: f32[T, 4]
        input arg1: f32[4]
        %0: f32[T, 4] = neg(arg0)    # act
        %1: f32[T, 4] = add(%0, arg1)
        output %1

        graph main: SERVING
        input positions: i32[T] as positions
        input x: f32[T, 4]
        const @w0: f32[4] = @w0:f32
        const @w1: f32[4] = @w1:f32
        const @w2: f32[4] = @w2:f32
        %0: f32[T, 4] = call(x, @w0) {body="layer_a"}    # model.layers.0.act
        %1: f32[T, 4] = call(%0, @w1) {body="layer_a"}    # model.layers.1.act
        %2: f32[T, 4] = call(%1, @w2) {body="layer_a"}    # model.layers.2.act
        output %2
        """,
    )


def test_bodies_follow_the_recorded_order() -> None:
    """A B A C A B: two bodies, and the layer that occurs once stays inline."""
    graph = parse(model(["neg", "exp", "neg", "abs", "neg", "exp"]))
    assert roll_layers(graph)
    names = [getattr(n.op, "body", n.op.mnemonic) for n in graph.nodes]
    assert names == ["layer_a", "layer_b", "layer_a", "abs", "add", "layer_a", "layer_b"]
    assert list(graph.bodies) == ["layer_a", "layer_b"]


@pytest.mark.parametrize(
    "layers",
    [
        ["neg", "exp", "neg", "abs", "neg", "exp"],
        ["neg", "exp", "neg", "exp", "tanh", "tanh", "neg"],
        ["sin", "sin", "cos", "cos"],
    ],
)
def test_bodies_read_their_own_inputs_only(layers: list[str]) -> None:
    """With several bodies, each is closed: no node of one reads a value of the main graph."""
    before, graph = parse(model(layers)), parse(model(layers))
    assert roll_layers(graph)
    verify(graph, after="roll_layers")
    for body in graph.bodies.values():
        made = {*body.inputs, *(v for n in body.nodes for v in n.outputs)}
        assert all(v in made for n in body.nodes for v in n.inputs)
    for old, new in zip(compute(before), compute(graph), strict=True):
        assert torch.equal(old, new)


def test_names_go_on_after_the_26th_body() -> None:
    """Twenty-eight kinds of layers, each twice, told apart by the number that they add."""
    numbers = [f"{i}.5" for i in range(28)] * 2
    lines = ["graph main: SERVING", "input positions: i32[T] as positions", "input x: f32[T, 4]"]
    last = "x"
    for i, number in enumerate(numbers):
        lines.append(f"%{i}: f32[T, 4] = add({last}, {number})    # model.layers.{i}.act")
        last = f"%{i}"
    text = "\n".join([*lines, f"output {last}"])
    before, graph = parse(text), parse(text)
    assert roll_layers(graph)
    names = list(graph.bodies)
    assert [*names[:2], *names[24:]] == ["layer_a", "layer_b", "layer_y", "layer_z", "layer_aa",
                                         "layer_ab"]  # fmt: skip
    again = parse(str(graph))
    for old, new in zip(compute(before), compute(again), strict=True):
        assert torch.equal(old, new)


def test_numbers_that_differ_make_another_body() -> None:
    """Literals are compiled in, so layers with other literals are other layers."""
    text = model(["neg", "neg", "neg"]).replace("add(%2, @w1)", "add(%2, 2.0)")
    graph = parse(text)
    assert roll_layers(graph)
    assert [n.op.mnemonic for n in graph.nodes] == ["call", "neg", "add", "call"]


def test_tables_are_hoisted_before_the_layers() -> None:
    """What only positions decide is computed once, outside of any layer."""
    check(
        roll_layers,
        """
        graph main: SERVING
        input positions: i32[T] as positions
        input x: f32[T]
        %0: f32[T] = neg(x)    # layers.0
        %1: f32[T] = cos(positions)    # layers.0.rotary
        %2: f32[T] = mul(%0, %1)    # layers.0
        output %2
        """,
        """
        graph main: SERVING
        input positions: i32[T] as positions
        input x: f32[T]
        %0: f32[T] = cos(positions)
        %1: f32[T] = neg(x)    # layers.0
        %2: f32[T] = mul(%1, %0)    # layers.0
        output %2
        """,
    )


@pytest.mark.parametrize("layers", [["neg"], ["neg", "exp"]])
def test_layers_that_occur_once_stay(layers: list[str]) -> None:
    check_declined(roll_layers, model(layers))
