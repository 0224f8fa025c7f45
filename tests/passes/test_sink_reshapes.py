"""Reshapes move behind norms and gates; what is computed stays."""

import pytest
import torch
from llmc.ir.graph import Graph
from llmc.ir.interpreter import interpret
from llmc.ir.parser import parse
from llmc.ir.verifier import verify
from llmc.passes.sink_reshapes import sink_reshapes

pytestmark = pytest.mark.fast


def graph_of(*lines: str) -> Graph:
    inputs = ["y: f32[T, 4, 6]", "z: f32[T, 24]", "w: f32[24]"]
    body = "\n".join(lines)
    return parse("graph main: MODEL\n" + "".join(f"input {i}\n" for i in inputs) + body)


GATED = graph_of(
    "const @weight: f32[6] = @weight:f32",
    "%0: f32[4*T, 6] = reshape(y) {shape=(4*T, 6)}",
    "%1: f32[4*T, 6] = rms_norm(%0, @weight)",
    "%2: f32[4*T, 6] = reshape(z) {shape=(4*T, 6)}",
    "%3: f32[4*T, 6] = silu(%2)",
    "%4: f32[4*T, 6] = mul(%1, %3)",
    "%5: f32[T, 24] = reshape(%4) {shape=(T, 24)}",
    "output %5",
)
"""As models norm and gate heads: as rows of their own."""

SKIPPED = graph_of(
    "%0: f32[T, 24] = reshape(y) {shape=(T, 24)}",
    "%1: f32[T, 24] = mul(%0, 0.5)",
    "%2: f32[T, 24] = silu(z)",
    "%3: f32[T, 24] = mul(%2, %1)",
    "output %3",
)


def evaluated(graph: Graph) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    shapes = {"y": (5, 4, 6), "z": (5, 24), "w": (24,)}
    given = {name: torch.randn(*shape, generator=random) for name, shape in shapes.items()}
    weight = torch.rand(6, generator=random)
    return interpret(graph, given, lambda value: weight)[0]


@pytest.mark.parametrize("graph", [GATED, SKIPPED], ids=["gated", "skipped"])
def test_chains_get_one_shape(graph: Graph) -> None:
    expected = evaluated(graph)
    graph = parse(str(graph))
    assert sink_reshapes(graph)
    verify(graph)
    torch.testing.assert_close(evaluated(graph), expected)
    loops = [n for n in graph.nodes if n.op.mnemonic in ("mul", "silu", "rms_norm")]
    assert {str(n.output.type) for n in loops} == {"f32[T, 4, 6]"}
    assert not sink_reshapes(graph)


@pytest.mark.parametrize(
    "lines",
    [
        # Rows of a norm must stay rows; a vector stands for other elements in another shape.
        ("%0: f32[T, 24] = reshape(y) {shape=(T, 24)}", "%1: f32[T, 24] = rms_norm(%0, w)"),
        ("%0: f32[T, 24] = reshape(y) {shape=(T, 24)}", "%1: f32[T, 24] = mul(%0, w)"),
        # Splitting is for what comes behind.
        ("%0: f32[T, 4, 6] = reshape(z) {shape=(T, 4, 6)}", "%1: f32[T, 4, 6] = silu(%0)"),
    ],
)
def test_others_stay(lines: tuple[str, str]) -> None:
    graph = graph_of(*lines, "output %1")
    text = str(graph)
    assert not sink_reshapes(graph)
    assert str(graph) == text
