"""A graph that a broken pass computes wrongly becomes a few nodes that show the same."""

import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graph_reducer import reduce_graph
from llmc.ir.graph import Graph
from llmc.ir.interpreter import interpret
from llmc.ir.ops import Attention, Unary
from llmc.ir.parser import parse
from llmc.ir.types import DType, bind_dim
from random_models import Choices, decoder, weight_tensor


def outputs(graph: Graph) -> list[torch.Tensor]:
    """What a graph computes for inputs that follow from their names."""
    inputs = {}
    for value in graph.inputs:
        generator = torch.Generator().manual_seed(zlib.crc32(value.name.encode()))
        shape = [bind_dim(d, {"T": 7}) for d in value.type.shape]
        if value.type.dtype == DType.F32:
            inputs[value.name] = torch.randn(shape, generator=generator)
        else:
            inputs[value.name] = torch.randint(0, 2, shape, generator=generator).int()
    return interpret(graph, inputs, weight_tensor)


def forgets_windows(graph: Graph) -> bool:
    """The broken pass: attention sees everything."""
    seen = [n for n in graph.nodes if isinstance(n.op, Attention) and n.op.window]
    for node in seen:
        assert isinstance(node.op, Attention)
        graph.replace_op(node, replace(node.op, window=0))
    return bool(seen)


def makes_gates_hard(graph: Graph) -> bool:
    """Another: silu becomes relu."""
    seen = [n for n in graph.nodes if n.op == Unary("silu")]
    for node in seen:
        graph.replace_op(node, Unary("relu"))
    return bool(seen)


def is_wrong_after(broken, graph: Graph) -> bool:
    try:
        before = outputs(graph)
    except (IndexError, RuntimeError, KeyError):
        return False
    broken(graph)
    # Inputs that a cut brings may make a root of what is negative: NaN before and after.
    pairs = zip(outputs(graph), before, strict=True)
    return not all(torch.allclose(a, b, equal_nan=True) for a, b in pairs)


def windows_are_forgotten(graph: Graph) -> bool:
    return is_wrong_after(forgets_windows, graph)


def gates_are_hard(graph: Graph) -> bool:
    return is_wrong_after(makes_gates_hard, graph)


@pytest.mark.parametrize(
    ("fails", "kind"), [(windows_are_forgotten, "attention"), (gates_are_hard, "silu")]
)
def test_a_model_becomes_the_node_at_fault(fails, kind: str) -> None:
    model = decoder(Choices())
    assert len(model.nodes) > 60
    small = reduce_graph(model, fails)
    assert fails(parse(str(small)))
    assert [node.op.mnemonic for node in small.nodes] == [kind]
    sizes = [d for v in small.inputs for d in v.type.shape if isinstance(d, int)]
    assert max(sizes, default=1) <= 2


def test_a_graph_without_the_fault_is_refused() -> None:
    graph = parse("graph main: TRACED\ninput x: f32[T, 4]\n%0: f32[T, 4] = neg(x)\noutput %0\n")
    with pytest.raises(ValueError, match="fault"):
        reduce_graph(graph, windows_are_forgotten)


def test_as_a_command(tmp_path: Path) -> None:
    """On a file, with a check of the caller's."""
    (tmp_path / "graph.txt").write_text(
        "graph main: TRACED\ninput x: f32[T, 8]\n%0: f32[T, 8] = exp(x)\n"
        "%1: f32[T, 8] = neg(%0)\n%2: f32[T, 8] = silu(%1)\noutput %2\n"
    )
    (tmp_path / "negates.py").write_text(
        "def shown(graph):\n    assert all(n.op.mnemonic != 'neg' for n in graph.nodes)\n"
        "    return False\n"
    )
    script = Path(__file__).with_name("graph_reducer.py")
    command = [sys.executable, script, tmp_path / "graph.txt", "--check", "negates:shown"]
    done = subprocess.run(
        [*map(str, command), "--path", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "graph main: TRACED\ninput cut1: f32[T, 1]\n%0: f32[T, 1] = neg(cut1)\noutput %0\n"
    )
