"""Rows of fused projections whose parts lie interleaved come in the order of the parts."""

import numpy as np
import pytest
import torch
from llmc.ir.graph import Graph
from llmc.ir.ops import Linear
from llmc.ir.parser import parse
from llmc.ir.verifier import verify
from llmc.passes.order_rows import order_rows
from llmc.weights import recipes as rec
from pass_cases import check_declined, check_unchanged, compute

pytestmark = pytest.mark.fast

HEAD = """graph main: MODEL
input x: f32[T, 5]
const @w: f32[24, 5] = @w:f32
const @b: f32[24] = @b:f32
%0: f32[T, 24] = linear(x, @w, @b) {bias=True}
"""
BY_HEAD = """%1: f32[T, 2, 3, 4] = reshape(%0) {shape=(T, 2, 3, 4)}
%2: f32[T, 2, 1, 4] = slice(%1) {dim=-2, start=0, stop=1}
%3: f32[T, 2, 4] = reshape(%2) {shape=(T, 2, 4)}
%4: f32[T, 2, 2, 4] = slice(%1) {dim=-2, start=1, stop=3}
%5: f32[T, 4, 4] = reshape(%4) {shape=(T, 4, 4)}
%6: f32[T, 2, 4] = silu(%3)
%7: f32[T, 4, 4] = tanh(%5)
"""
BOTH = """%8: f32[T, 8] = reshape(%6) {shape=(T, 8)}
%9: f32[T, 16] = reshape(%7) {shape=(T, 16)}
%10: f32[T, 24] = concat(%8, %9) {dim=-1}
output %10
"""


def ordered(text: str) -> tuple[Graph, list[int]]:
    """The graph after the pass, which computes the same, and the order of its rows."""
    graph = parse(text)
    verify(graph)
    before = compute(graph)
    assert order_rows(graph)
    verify(graph)
    for now, then in zip(compute(graph), before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-6, atol=1e-6)
    check_unchanged(order_rows, graph)
    (linear,) = (node for node in graph.nodes if isinstance(node.op, Linear))
    orders = [v.recipe.index.value.tolist() for v in linear.inputs[1:]
              if isinstance(v.recipe, rec.Take)]  # fmt: skip
    assert len(orders) == len(linear.inputs) - 1
    assert all(order == orders[0] for order in orders)
    return graph, orders[0]


def test_heads_of_each_part_lie_one_behind_another() -> None:
    _, order = ordered(HEAD + BY_HEAD + BOTH)
    rows = np.arange(24).reshape(2, 3, 4)
    assert order == [*rows[:, 0].ravel(), *rows[:, 1:].ravel()]


def test_rows_that_nobody_reads_go() -> None:
    text = HEAD + BY_HEAD.replace("%7: f32[T, 4, 4] = tanh(%5)\n", "") + "output %6\n"
    graph, order = ordered(text)
    assert order == [0, 1, 2, 3, 12, 13, 14, 15]
    assert str(graph.nodes[0].output.type) == "f32[T, 8]"


@pytest.mark.parametrize(
    "lines",
    [
        # Ranges already, as most models have them.
        """%1: f32[T, 8] = slice(%0) {dim=-1, start=0, stop=8}
        %2: f32[T, 2, 4] = reshape(%1) {shape=(T, 2, 4)}
        %3: f32[T, 2, 4] = silu(%2)
        output %3
        """,
        # The whole is read beside its parts.
        BY_HEAD
        + """%8: f32[T, 24] = exp(%0)
        output %8
        output %6
        """,
    ],
    ids=["ranges", "the whole too"],
)
def test_others_stay(lines: str) -> None:
    graph = parse(HEAD + lines)
    graph.erase_dead()
    check_declined(order_rows, str(graph))
