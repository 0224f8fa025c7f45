"""The text of a graph: numbering, names, quoting, bodies and cache groups."""

import pytest
from llmc.ir.graph import Graph, StateGroup
from llmc.ir.ops import Attention, Binary, Call, Cast, Iota, Norm, Reshape, Unary
from llmc.ir.phase import Phase
from llmc.ir.printer import format_attribute, format_name
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.scalar import scalar
from llmc.ir.states.key_value import KeyValueGeometry
from llmc.ir.types import DType, Sym, T, TensorType

pytestmark = pytest.mark.fast

ROWS = TensorType(DType.F32, (T, 4))


def leaf(name: str, *shape: int):
    recipe = CheckpointTensor(name, "f32", shape)
    return Graph.constant(name, recipe, recipe.type)


def test_a_whole_graph() -> None:
    """Inputs, cache groups, constants in order of first use, numbered results, scopes, outputs."""
    graph = Graph("main", Phase.FUSED)
    x = graph.add_input("x", ROWS)
    kept = KeyValueGeometry(8, 2, 16, 24, DType.BF16)
    graph.groups.append(StateGroup("0", "paged", kept, [0, 2]))
    y = graph.append(Norm("rms_norm", 1e-5), [x, leaf("norm.weight", 4)], "layers.0.norm").output
    z = graph.append(Binary("mul"), [y, scalar(0.5)]).output
    graph.outputs = [z, y]
    assert str(graph) == (
        "graph main: FUSED\n"
        "input x: f32[T, 4]\n"
        "group 0: paged {window=8, heads=2, key=16, value=24, dtype=bf16} sites=(0, 2)\n"
        "const @norm.weight: f32[4] = @norm.weight:f32\n"
        "%0: f32[T, 4] = rms_norm(x, @norm.weight) {eps=1e-05}    # layers.0.norm\n"
        "%1: f32[T, 4] = mul(%0, 0.5)\n"
        "output %1\n"
        "output %0\n"
    )


def test_bodies_come_first() -> None:
    body = Graph("layer_a", Phase.SERVING)
    body.outputs = [body.append(Unary("neg"), [body.add_input("arg0", ROWS)]).output]
    graph = Graph("main", Phase.SERVING)
    graph.bodies["layer_a"] = body
    graph.outputs = [graph.append(Call("layer_a", (ROWS,)), [graph.add_input("x", ROWS)]).output]
    assert str(graph) == (
        "graph layer_a: SERVING\ninput arg0: f32[T, 4]\n%0: f32[T, 4] = neg(arg0)\noutput %0\n"
        "\n"
        "graph main: SERVING\ninput x: f32[T, 4]\n"
        '%0: f32[T, 4] = call(x) {body="layer_a"}\noutput %0\n'
    )


def test_constants_of_one_name_are_told_apart() -> None:
    """Also from a constant that happens to be called like the made-up name."""
    graph = Graph()
    x = graph.add_input("x", ROWS)
    for name in ("w", "w.2", "w"):
        x = graph.append(Binary("mul"), [x, leaf(name, 4)]).output
    names = [line.split(":")[0] for line in str(graph).splitlines() if line.startswith("const")]
    assert names == ["const @w", "const @w.2", "const @w.3"]


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (Reshape((Sym("T", 2), 4)), "{shape=(2*T, 4)}"),
        (Reshape((T,)), "{shape=(T,)}"),
        (Cast(DType.BF16), "{dtype=bf16}"),
        (Iota(3), "{size=3}"),
        (Iota(3, DType.I32), "{size=3, dtype=i32}"),
        (Attention(0.25, softcap=30.0, sinks=True), "{scale=0.25, softcap=30.0, sinks=True}"),
        (Call('a "quoted" body'), '{body="a \\"quoted\\" body"}'),
    ],
)
def test_attributes(op, text: str) -> None:
    """Defaults are left out; symbols, element types, numbers and strings are told apart."""
    inner = ", ".join(f"{k}={format_attribute(v)}" for k, v in op.attributes().items())
    assert f"{{{inner}}}" == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (scalar(0.5), "0.5"), (scalar(3), "3"), (scalar(3, DType.I32), "3:i32"),
        (scalar(True), "true"), (scalar(1, DType.BOOL), "true"), (scalar(2, DType.F32), "2.0"),
        (scalar(1e-5, DType.BF16), "1e-05:bf16"), (scalar(float("-inf")), "-inf"),
        (scalar(True, DType.I64), "1"),
    ],
)  # fmt: skip
def test_scalars(value, text: str) -> None:
    assert str(value.recipe) == text


@pytest.mark.parametrize("name", ["a b", "true", "inf", "3", "", 'q"', "a,b", "%0", "@w"])
def test_odd_names_are_quoted(name: str) -> None:
    """Whatever could be mistaken for a literal, a result or punctuation stands in quotes."""
    assert format_name(name).startswith('"')


@pytest.mark.parametrize("name", ["token_ids", "key_pool.0", "trueish", "_x"])
def test_plain_names_are_bare(name: str) -> None:
    assert format_name(name) == name
