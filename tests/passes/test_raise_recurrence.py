"""The step of one token becomes a graph of tokens that gives what the step gives one by one."""
# ruff: noqa: E501 (lines of graph text)

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph
from llmc.ir.interpreter import interpret
from llmc.ir.ops import Recurrence
from llmc.ir.parser import parse
from llmc.ir.roles import Carried
from llmc.ir.types import T
from llmc.ir.verifier import verify
from llmc.passes.canonicalize import canonicalize
from llmc.passes.fold_constants import fold_constants
from llmc.passes.prove_packing import prove_packing
from llmc.passes.raise_recurrence import raise_recurrence
from llmc.passes.split_states import split_states
from llmc.passes.spread_tokens import spread_tokens
from pass_cases import constant
from token_steps import all_at_once, one_by_one, random_inputs

pytestmark = pytest.mark.fast

HEAD = """
graph main: TRACED
input ids: i64[1, 1] as token_ids
input at: i64[1, 1] as positions
"""
CELL = """
input h: f32[1, 6] as carried(0, 0.0)
const @table: f32[4, 6] = @table:f32
const @w: f32[6, 6] = @w:f32
const @u: f32[6, 6] = @u:f32
%0: f32[1, 1, 6] = embedding(@table, ids)
%1: f32[1, 1, 6] = linear(%0, @w)
%2: f32[1, 6] = linear(h, @u)
%3: f32[1, 1, 6] = add(%1, %2)
%4: f32[1, 1, 6] = tanh(%3)
%5: f32[1, 6] = reshape(%4) {shape=(1, 6)}
%6: f32[1, 1, 6] = linear(%4, @w)
output %6
output %5
"""
MATRIX = """
input s: f32[1, 2, 3, 5] as carried(0, 0.0)
const @table: f32[4, 22] = @table:f32
const @fade: f32[2, 1, 1] = @fade:f32
%0: f32[1, 1, 22] = embedding(@table, ids)
%1: f32[1, 1, 6] = slice(%0) {dim=-1, start=0, stop=6}
%2: f32[1, 1, 6] = slice(%0) {dim=-1, start=6, stop=12}
%3: f32[1, 1, 10] = slice(%0) {dim=-1, start=12, stop=22}
%4: f32[1, 2, 1, 3] = reshape(%1) {shape=(1, 2, 1, 3)}
%5: f32[1, 2, 3, 1] = reshape(%2) {shape=(1, 2, 3, 1)}
%6: f32[1, 2, 1, 5] = reshape(%3) {shape=(1, 2, 1, 5)}
%7: f32[1, 2, 3, 5] = mat_mul(%5, %6)
%8: f32[1, 2, 3, 5] = mul(@fade, s)
%9: f32[1, 2, 3, 5] = add(%8, %7)
%10: f32[1, 2, 1, 5] = mat_mul(%4, %9)
%11: f32[1, 1, 10] = reshape(%10) {shape=(1, 1, 10)}
output %11
output %9
"""
PACKED = """
input all: f32[1, 4, 2] as carried(0, -2.0)
const @table: f32[4, 4] = @table:f32
%0: f32[1, 1, 4] = embedding(@table, ids)
%1: f32[1, 4, 1] = slice(all) {dim=-1, start=0, stop=1}
%2: f32[1, 4] = reshape(%1) {shape=(1, 4)}
%3: f32[1, 1, 4] = maximum(%0, %2)
%4: f32[1, 4, 1] = reshape(%3) {shape=(1, 4, 1)}
%5: f32[1, 4, 1] = slice(all) {dim=-1, start=1, stop=2}
%6: f32[1, 4, 2] = concat(%4, %5) {dim=-1}
%7: f32[1, 4, 1] = slice(%6) {dim=-1, start=1, stop=2}
%8: f32[1, 4] = reshape(%7) {shape=(1, 4)}
%9: f32[1, 1, 4] = add(%3, %8)
%10: f32[1, 4, 1] = reshape(%3) {shape=(1, 4, 1)}
%11: f32[1, 4, 1] = slice(%6) {dim=-1, start=0, stop=1}
%12: f32[1, 4, 2] = concat(%11, %10) {dim=-1}
output %9
output %12
"""
WINDOW = """
input last: f32[1, 4, 2] as carried(0, 0.0)
input unread: f32[1, 4] as carried(1, 0.0)
const @table: f32[4, 4] = @table:f32
const @w: f32[4, 3] = @w:f32
%0: f32[1, 1, 4] = embedding(@table, ids)
%1: f32[1, 4, 1] = permute(%0) {dims=(-3, -1, -2)}
%2: f32[1, 4, 3] = concat(last, %1) {dim=-1}
%3: f32[1, 4, 3] = mul(%2, @w)
%4: f32[1, 4] = reduce(%3) {fn="sum", dims=(-1,)}
%5: f32[1, 4, 2] = slice(%2) {dim=-1, start=1, stop=3}
output %4
output %5
output %4
"""
TWO = """
input m: f32[1, 4] as carried(0, -1e+30)
input n: f32[1, 4] as carried(1, 0.0)
const @table: f32[4, 4] = @table:f32
%0: f32[1, 1, 4] = embedding(@table, ids)
%1: f32[1, 1, 4] = maximum(m, %0)
%2: f32[1, 1, 4] = sub(m, %1)
%3: f32[1, 1, 4] = exp(%2)
%4: f32[1, 1, 4] = mul(%3, n)
%5: f32[1, 1, 4] = add(%4, %0)
%6: f32[1, 4] = reshape(%1) {shape=(1, 4)}
%7: f32[1, 4] = reshape(%5) {shape=(1, 4)}
%8: f32[1, 1, 4] = sub(%5, n)
output %8
output %6
output %7
"""
STEPS = {"cell": CELL, "matrix": MATRIX, "packed": PACKED, "window": WINDOW, "two": TWO}


def raised(text: str) -> Graph:
    graph = parse(text)
    assert spread_tokens(graph)
    verify(graph)
    canonicalize(graph)
    fold_constants(graph)
    assert split_states(graph)
    verify(graph)
    canonicalize(graph)
    assert raise_recurrence(graph)
    verify(graph)
    assert not prove_packing(graph)
    return graph


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("tokens", [1, 2, 11])
def test_gives_what_the_step_gives_one_by_one(name: str, tokens: int) -> None:
    graph = raised(HEAD + STEPS[name])
    assert len(graph.outputs) == 1
    assert not any(isinstance(v.role, Carried) for v in graph.inputs)
    inputs = random_inputs(graph, tokens)
    expected = one_by_one(HEAD + STEPS[name], inputs)
    torch.testing.assert_close(all_at_once(graph, inputs), expected, rtol=1e-5, atol=1e-5)


def recurrences(name: str) -> list[Recurrence]:
    graph = raised(HEAD + STEPS[name])
    return [node.op for node in graph.nodes if isinstance(node.op, Recurrence)]


def mnemonics(op: Recurrence) -> list[str]:
    return [each.op.mnemonic for each in op.body.ops]


def test_only_the_cycle_runs_token_by_token() -> None:
    """The product with the input, and the head, are for all tokens at once."""
    (op,) = recurrences("cell")
    assert mnemonics(op) == ["linear", "add", "tanh"]
    assert op.tokens == 1


def test_no_matrix_crosses_the_border() -> None:
    """The outer product and the read are done inside, though nothing makes them."""
    (op,) = recurrences("matrix")
    assert mnemonics(op) == ["mat_mul", "mul", "add", "mat_mul"]
    assert [v.shape for v in op.body.inputs[:3]] == [(T, 2, 3, 1), (T, 2, 1, 5), (T, 2, 1, 3)]
    assert [v.shape for v in op.body.results] == [(T, 2, 3, 5), (T, 2, 1, 5)]


def test_layers_that_share_a_tensor_have_states_of_their_own() -> None:
    """The second layer's state is what the first has left for all layers: the token before."""
    first, second = recurrences("packed")
    assert (first.carried, second.carried) == (1, 1)
    assert mnemonics(first) == ["where", "maximum"]
    assert mnemonics(second) == []


def test_states_that_lead_one_way_are_two_recurrences() -> None:
    first, second = recurrences("two")
    assert "maximum" in mnemonics(first)
    assert mnemonics(second) == ["mul", "add", "sub"]  # of what it finds and leaves, one goes out


def test_an_unread_state_is_none() -> None:
    assert len(recurrences("window")) == 1


def test_a_graph_of_tokens_is_left_alone() -> None:
    text = "graph main: TRACED\ninput x: f32[T, 4]\n%0: f32[T, 4] = tanh(x)\noutput %0\n"
    graph = parse(text)
    assert not spread_tokens(graph)
    assert not split_states(graph)
    assert not raise_recurrence(graph)
    assert str(graph) == text


SPREAD = [
    ("a: f32[1, 2, 1, 3]", "%0: f32[1, 1, 2, 3] = permute(a) {dims=(-4, -2, -3, -1)}", (2, 3)),
    ("a: f32[1, 1, 3]", "%0: f32[1, 3] = reduce(a) {fn=\"sum\", dims=(-2,)}", (3,)),
    ("a: f32[1, 1, 3]", "%0: f32[3] = reshape(a) {shape=(3,)}\n%1: f32[1, 1, 3] = add(%0, a)", (3,)),
    ("a: f32[1, 3]", "%0: f32[1, 3, 1] = reshape(a) {shape=(1, 3, 1)}\n%1: f32[1, 3, 3] = mul(a, %0)", (3, 3)),
    ("a: f32[1, 3]", "%0: f32[2, 3] = expand(a) {shape=(2, 3)}", (2, 3)),
    ("a: f32[2, 1, 3]", "%0: f32[2, 1, 5] = mat_mul(a, @m)", (2, 1, 5)),
    ("a: f32[1, 1, 1]", "%0: f32[1, 1, 4] = add(a, @b)", (4,)),
    ("a: f32[1, 1, 4]", "%0: f32[1, 2, 4] = concat(a, @b) {dim=-2}", (2, 4)),
    ("a: f32[1, 1, 4]", "%0: f32[1, 1, 4] = softmax(a) {dim=-1}", (4,)),
    ("a: f32[1, 1, 4]", "%0: f32[1, 1, 2], %1: i64[1, 1, 2] = top_k(a) {k=2}\n%2: f32[1, 1, 2] = gather(a, %1) {dim=-1}", (2,)),
    ("a: f32[1, 1, 4]", "%0: f32[1, 1, 4] = rms_norm(a, @g)", (4,)),
]  # fmt: skip
CONSTANTS = """
const @m: f32[2, 3, 5] = @m:f32
const @b: f32[1, 1, 4] = @b:f32
const @g: f32[4] = @g:f32
"""


@pytest.mark.parametrize(("given", "lines", "shape"), SPREAD)
def test_every_op_is_spread_over_tokens(given: str, lines: str, shape: tuple[int, ...]) -> None:
    """What the op gives for one token is a row of what it gives for all."""
    last = lines.rsplit("\n", 1)[-1].split(" =")[0].rsplit(", %", 1)[-1].split(":")[0]
    text = f"graph main: TRACED\ninput {given} as carried(0, 0.0)\n{CONSTANTS}{lines}\noutput {last}\noutput a\n"
    one, many = parse(text), parse(text)
    assert spread_tokens(many)
    verify(many)
    assert many.outputs[0].type.shape[1:] == shape
    rows = torch.randn(5, *one.inputs[0].type.shape)  # type: ignore[misc]
    each = [interpret(one, {"a": row}, constant)[0].reshape(shape) for row in rows]
    given_rows = rows.reshape(5, *many.inputs[0].type.shape[1:])  # type: ignore[arg-type]
    together = interpret(many, {"a": given_rows}, constant)[0]
    torch.testing.assert_close(together, torch.stack(each), rtol=1e-5, atol=1e-6)


def test_experts_keep_their_rows() -> None:
    text = """
    graph main: TRACED
    input a: f32[1, 6] as carried(0, 0.0)
    const @gate: f32[4, 6] = @gate:f32
    const @up: f32[4, 8, 6] = @up:f32
    const @down: f32[4, 6, 8] = @down:f32
    %0: f32[1, 4] = linear(a, @gate)
    %1: f32[1, 2], %2: i64[1, 2] = top_k(%0) {k=2}
    %3: i32[2], %4: i32[5], %5: i32[1, 2] = route_tokens(%2) {experts=4}
    %6: f32[2, 8] = grouped_linear(a, @up, %3, %4) {gather=True}
    %7: f32[2, 8] = silu(%6)
    %8: f32[2, 6] = grouped_linear(%7, @down, %4)
    %9: f32[1, 6] = combine_experts(%8, %5, %1)
    output %9
    output a
    """
    one, many = parse(text), parse(text)
    spread_tokens(many)
    verify(many)
    rows = torch.randn(7, 6)
    each = torch.cat([interpret(one, {"a": row[None]}, constant)[0] for row in rows])
    together = interpret(many, {"a": rows}, constant)[0]
    torch.testing.assert_close(together, each, rtol=1e-5, atol=1e-6)


def test_an_op_that_takes_the_rows_of_experts_apart_is_refused() -> None:
    text = """
    graph main: TRACED
    input a: i64[1, 2] as carried(0, 0.0)
    const @x: f32[4, 6] = @x:f32
    %0: i32[2], %1: i32[5], %2: i32[1, 2] = route_tokens(a) {experts=4}
    %3: i32[1, 2] = reshape(%0) {shape=(1, 2)}
    output %3
    output a
    """
    with pytest.raises(LlmcError, match=r"reshape .* isn't for one token alone"):
        spread_tokens(parse(text))
