"""Graphs in which tokens meet outside attention are refused by op, scope and source line."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.base.errors import LlmcError
from llmc.ir.parser import parse
from llmc.passes.prove_packing import prove_packing
from pass_cases import check_unchanged

pytestmark = pytest.mark.fast

HEAD = """
graph main: TRACED
input x: f32[T, 6]
input ids: i32[T]
input at: i64[T, 6]
const @table: f32[4, 6] = @table:f32
const @w: f32[6, 6] = @w:f32
"""
SCORES = "%0: f32[6, T] = permute(x) {dims=(-1, -2)}\n"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (SCORES + "%1: f32[T, T] = mat_mul(x, %0)", "mat_mul in layers.3.mix .* relates tokens"),
        (SCORES + "%1: f32[6, 6] = mat_mul(%0, x)", "mat_mul in layers.3.mix .* sums over tokens"),
        (SCORES + "%1: f32[6, T] = softmax(%0) {dim=-1}", "softmax in .* normalizes over tokens"),
        (
            "%0: i32[T, 1] = reshape(ids) {shape=(T, 1)}\n%1: bool[T, T] = eq(%0, ids)",
            "eq in .* re",
        ),
        ("%1: f32[T, 6] = embedding(x, ids)", "embedding in .* looks up other tokens"),
        ("%1: f32[T, 6] = gather(x, at) {dim=-2}", "gather in .* moves values between tokens"),
        ("%1: f32[T, 6] = scatter(x, at, x) {dim=-2}", "scatter in .* moves values between"),
        (SCORES + "%1: f32[T, 6] = reshape(%0) {shape=(T, 6)}", r"reshapes \[6, T\] to \[T, 6\]"),
        (SCORES + "%1: f32[3, 2*T] = reshape(%0) {shape=(3, 2*T)}", "cuts tokens apart"),
    ],
)
def test_what_mixes_tokens_is_refused(lines: str, why: str) -> None:
    graph = parse(f"{HEAD}{lines}    # layers.3.mix\noutput %1")
    graph.nodes[-1].source = "modeling.py:12 `y = f(x)`"
    with pytest.raises(LlmcError, match=why) as caught:
        prove_packing(graph)
    assert caught.value.id == "LLMC-E0412"
    assert "layers.3.mix (modeling.py:12 `y = f(x)`)" in caught.value.message


@pytest.mark.parametrize(
    "lines",
    [
        "%1: f32[T, 6] = linear(x, @w)",
        "%0: f32[T, 2, 3] = reshape(x) {shape=(T, 2, 3)}\n%1: f32[2, T, 3] = permute(%0) {dims=(-2, -3, -1)}",
        "%1: f32[2*T, 3] = reshape(x) {shape=(2*T, 3)}",
        "%0: f32[T, 1, 6] = reshape(x) {shape=(T, 1, 6)}\n%1: f32[T, 1, 6] = mat_mul(%0, @w)",
        "%1: f32[T, 6] = gather(x, at) {dim=-1}",
        "%1: f32[T, 6] = embedding(@table, ids)",
        "%0: f32[T, 2, 3] = reshape(x) {shape=(T, 2, 3)}\n%1: f32[T, 2, 3] = attention(%0, %0, %0) {scale=1.0}",
        "%0: f32[6, T] = permute(x) {dims=(-1, -2)}\n%1: f32[2, 3, T] = reshape(%0) {shape=(2, 3, T)}",
    ],
)  # fmt: skip
def test_what_keeps_rows_apart_passes(lines: str) -> None:
    """Products with weights, moved dimensions, row-wise look-ups, and attention itself."""
    check_unchanged(prove_packing, parse(f"{HEAD}{lines}\noutput %1"))
