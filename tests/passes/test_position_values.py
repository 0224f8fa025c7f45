"""Values of positions alone, at chosen tokens, are those that the whole graph computes."""

import pytest
import torch
from llmc.ir.graph import Graph, Value
from llmc.ir.interpreter import interpret
from llmc.ir.parser import parse
from llmc.ir.verifier import verify
from llmc.passes.position_values import PositionValues, telling_positions

pytestmark = pytest.mark.fast

TOKENS = 23
TEXT = """
graph main: TRACED
input positions: i64[T] as positions
input x: f32[T, 4]
const @w: f32[4] = @w:f32
%0: i64[1, T] = reshape(positions) {shape=(1, T)}
%1: i64[T, 1] = permute(%0) {dims=(-1, -2)}
%2: i64[T, T] = sub(%1, %0)
%3: bool[T, T] = ge(%2, 0)
%4: f32[1, T, T] = causal_mask() {shape=(1, T, T), window=5}
%5: f32[1, T, T] = where(%3, 1.5, %4)
%6: i64[3] = iota() {size=3}
%7: i64[3, 1, 1] = reshape(%6) {shape=(3, 1, 1)}
%8: f32[3, T, T] = add(%5, %7)
%9: f32[1, 3, T, T] = reshape(%8) {shape=(1, 3, T, T)}
%10: f32[2, 3, T, T] = expand(%9) {shape=(2, 3, T, T)}
%11: i64[40] = iota() {size=40}
%12: i64[40, 1] = reshape(%11) {shape=(40, 1)}
%13: i64[T, 1] = embedding(%12, positions)
%14: i64[] = token_count()
%15: i64[T, 1] = sub(%14, %13)
%16: f32[T, 4] = full(2.0) {shape=(T, 4)}
%17: f32[T, 4] = mul(%15, %16)
%18: f32[T, 2] = slice(%17) {dim=-1, start=1, stop=3}
%19: f32[T, 4] = add(x, %17)
%20: f32[T, 4] = mul(%17, @w)
%21: f32[2*T, 2] = reshape(%17) {shape=(2*T, 2)}
output %10
output %18
"""


def graph() -> Graph:
    made = parse(TEXT)
    verify(made)
    return made


def value(graph: Graph, number: int) -> Value:
    return graph.nodes[number].output


@pytest.mark.parametrize(("number", "dims"), [(2, 2), (5, 2), (10, 2), (13, 1), (15, 1), (18, 1)])
def test_chosen_tokens_are_those_of_the_whole(number: int, dims: int) -> None:
    """Each token dimension has its own choice, in any order and of one token too."""
    made = graph()
    wanted = value(made, number)
    made.outputs = [wanted]
    inputs = {"positions": torch.arange(TOKENS), "x": torch.zeros(TOKENS, 4)}
    (whole,) = interpret(made, inputs, lambda v: torch.zeros(4))
    places = [torch.tensor([22, 3, 7]), torch.tensor([0])][:dims]
    expected = whole
    for tokens, dim in zip(places, [d for d, n in enumerate(whole.shape) if n == TOKENS],
                           strict=True):  # fmt: skip
        expected = expected.index_select(dim, tokens)
    values = PositionValues(TOKENS)
    assert values.is_known(wanted)
    assert torch.equal(values.at(wanted, *places), expected)


def test_what_depends_on_more_is_not_known() -> None:
    """Activations, weights, and tokens that stand in one dimension with others."""
    made, values = graph(), PositionValues(TOKENS)
    assert [values.is_known(value(made, n)) for n in (17, 19, 20, 21)] == [True, *[False] * 3]


def test_a_table_that_ends_says_so() -> None:
    made = graph()
    with pytest.raises(ValueError, match="ends before 64 tokens"):
        PositionValues(64).at(value(made, 13), torch.tensor([50]))


@pytest.mark.parametrize("span", [1, 2, 40, 5000])
def test_telling_positions_lie_within_the_span(span: int) -> None:
    pairs, whole = telling_positions(span, 16, span)
    assert set(pairs.tolist()) <= set(range(span))
    assert span - 1 in whole
    assert {0, span - 1} <= set(pairs.tolist())
