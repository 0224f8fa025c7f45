"""Text → graph → the same text, and refusals that name the line."""

import pytest
from hypothesis import given
from llmc.ir.graph import Graph
from llmc.ir.ops import Attention, Call, Cast, Linear, Recurrence, Reshape
from llmc.ir.parser import Opaque, make_op, parse
from llmc.ir.phase import Phase
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.scalar import scalar_of
from llmc.ir.types import DType, Sym, T, TensorType
from llmc.ir.verifier import verify
from random_graphs import graphs

pytestmark = pytest.mark.fast


@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    """Odd names, all kinds of scalars and attributes: nothing is lost or changed."""
    text = str(graph)
    again = parse(text)
    assert str(again) == text
    assert [n.op for n in again.nodes] == [n.op for n in graph.nodes]
    assert [n.scope for n in again.nodes] == [n.scope for n in graph.nodes]
    verify(again)


def test_calls_take_their_results_from_the_body() -> None:
    graph = parse(
        """
        graph body: SERVING
        input a: f32[T, 4]
        %0: f32[T, 2], %1: i64[T, 2] = top_k(a) {k=2}
        output %0
        output %1

        graph main: SERVING
        input x: f32[T, 4]
        %0: f32[T, 2], %1: i64[T, 2] = call(x) {body="body"}
        output %1
        """
    )
    results = (TensorType(DType.F32, (T, 2)), TensorType(DType.I64, (T, 2)))
    assert graph.nodes[0].op == Call("body", results)
    assert graph.bodies["body"].phase == Phase.SERVING


BODIES = """\
graph each_token_0: MODEL
input arg0: f32[T, 4]
input arg1: f32[T, 4]
%0: f32[T, 4] = add(arg0, arg1)
%1: bool[T, 4] = lt(%0, 0.5)
output %0
output arg1
output %1

graph each_token_1: MODEL
input arg0: f32[T, 4]
input arg1: f32[T, 4]
output arg0
output arg1

graph main: MODEL
input x: f32[T, 4]
%0: f32[T, 4], %1: bool[T, 4] = recurrence(x) {body="each_token_0", tokens=1}
%2: f32[T, 4] = recurrence(%0) {body="each_token_1", tokens=1}
%3: f32[T, 4], %4: bool[T, 4] = recurrence(%2) {body="each_token_0", tokens=1}
output %3
output %4
"""


def test_bodies_of_ops_are_written_once_before_the_graph() -> None:
    graph = parse(BODIES)
    first, _, third = (node.op for node in graph.nodes)
    assert isinstance(first, Recurrence)
    assert first == third
    assert len(first.body.ops) == 2
    assert graph.bodies == {}
    verify(graph)
    assert str(graph) == BODIES


def test_a_body_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="line 18: no body 'each_token_2' stands before"):
        parse(BODIES.replace('(x) {body="each_token_0"', '(x) {body="each_token_2"'))


def test_a_body_reads_no_constants_but_scalars() -> None:
    wrong = BODIES.replace("lt(%0, 0.5)", "lt(%0, @w)").replace(
        "input arg1: f32[T, 4]\n%0", "input arg1: f32[T, 4]\nconst @w: f32[4] = @w:f32\n%0"
    )
    with pytest.raises(ValueError, match=r"reads .* no input"):
        parse(wrong)


def test_plain_checkpoint_tensors_are_what_they_were() -> None:
    """Other recipes are kept as text, also where the type says that the leaf was converted."""
    graph = parse(
        """
        graph main: TRACED
        const @a: f32[2, 3] = @model.a|b:bf16
        const @b: f32[2, 3] = mul(@model.b:f32, 2.0)
        const @c: bf16[2, 3] = @model.c:f32
        output @a
        output @b
        output @c
        """
    )
    a, b, c = (v.recipe for v in graph.outputs)
    assert a == CheckpointTensor("model.a|b", "bf16", (2, 3))
    assert b == Opaque("mul(@model.b:f32, 2.0)", TensorType(DType.F32, (2, 3)))
    assert isinstance(c, Opaque)


def test_heads_of_dumps_are_skipped() -> None:
    text = "graph main: TRACED\ninput x: f32[T, 4]\noutput x\n"
    assert str(parse(f"# canonicalize: 0 nodes, 1.0 ms\n{text}")) == text


@pytest.mark.parametrize(
    ("text", "value", "dtype"),
    [("0.5", 0.5, DType.F32), ("-3", -3, DType.I64), ("3:i32", 3, DType.I32),
     ("true", True, DType.BOOL), ("-inf", float("-inf"), DType.F32),
     ("1e-05:bf16", 1e-5, DType.BF16)],
)  # fmt: skip
def test_scalar_operands(text: str, value: float, dtype: DType) -> None:
    graph = parse(f"graph main: TRACED\noutput {text}")
    assert scalar_of(graph.outputs[0]) == value
    assert type(scalar_of(graph.outputs[0])) is type(value)
    assert graph.outputs[0].type.dtype == dtype


@pytest.mark.parametrize(
    ("mnemonic", "attributes", "op"),
    [
        ("reshape", {"shape": (Sym("T", 2), 4)}, Reshape((Sym("T", 2), 4))),
        ("cast", {"dtype": DType.BF16}, Cast(DType.BF16)),
        ("linear", {"act": "silu", "gated": True, "out": 8}, Linear(act="silu", gated=True, out=8)),
        ("attention", {"scale": 1}, Attention(1.0)),
    ],
)
def test_attributes_have_the_types_of_the_fields(mnemonic, attributes, op) -> None:
    made = make_op(mnemonic, attributes)
    assert made == op
    assert all(type(getattr(made, k)) is type(getattr(op, k)) for k in attributes)


HEAD = "graph main: TRACED\ninput x: f32[T, 4]\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("%0: f32[T, 4] = nag(x)", "'nag' is unknown|nag is unknown"),
        ("%0: f32[T, 4] = neg(y)", "y is unknown"),
        ("%0: f32[T, 4] = add(x, @w)", "@w is unknown"),
        ("%0: f32[T, 5] = neg(x)", r"neg gives f32\[T, 4\], not f32\[T, 5\]"),
        ("%0: f32[T, 4] = slice(x) {dim=-1, start=0, stop=9}", "line 3"),
        ("%0: f32[T, 4] = slice(x) {dim=-1, start=0, stop=2, stap=1}", "no attribute stap"),
        ("%0: f32[T, 4] = slice(x) {dim=-1, start=0}", "slice needs stop"),
        ('%0: f32[T, 4] = slice(x) {dim="last", start=0, stop=2}', "dim='last' is not of type"),
        ("%0: f32[T, 4] = cast(x) {dtype=f33}", "dtype=f33 is not of type"),
        ("%0: f32[T, 4] = neg(x) trailing", "expected end, not 'trailing'"),
        ("%0: f32[T, 4] neg(x)", "expected =, not 'neg'"),
        ("%0: f32[T, 4] = neg(x", "not 'the end'"),
        ("%0: f32[T, 4] = neg(x) ; hm", "can't read '; hm'"),
        ('%0: f32[T, 4] = call(x) {body="layer"}', "no body 'layer'"),
        ("input x: i32[T]", "x is defined twice"),
        ("input y: f99[T]", "f99"),
        ("const @w: f32[4] =", "expected a recipe"),
        ("group 0: paged {window=0, heads=3, width=4, key=4} sites=(0,)", "no attribute width"),
        ("group 0: paged {window=0, heads=3} sites=(0,)", "paged needs dtype, key, value"),
        ("group 0: heap {} sites=(0,)", "heap is unknown"),
        ("outputs x", "expected graph, input, group, const, output or a result"),
        ("graph other: SOON", "SOON is unknown|'SOON' is unknown"),
    ],
)
def test_refusals_name_the_line(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(HEAD + line)
    assert str(caught.value).startswith("line 3: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "input x: f32[T]"])
def test_text_without_a_graph(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: .*graph"):
        parse(text)
