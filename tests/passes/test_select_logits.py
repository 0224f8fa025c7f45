"""Logits are computed for the rows that are wanted only."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.ir.parser import parse
from llmc.passes.select_logits import select_logits
from pass_cases import check_unchanged, compute

pytestmark = pytest.mark.fast

HEAD = "graph main: FUSED\ninput x: f32[T, 6]\ninput r: f32[T, 6]\nconst @w: f32[6] = @w:f32\nconst @head: f32[9, 6] = @head:f32\n"


def selected(before: str, expected: str) -> None:
    """The new graph gives the wanted rows of the old one's logits."""
    graph = parse(before)
    (whole,) = compute(graph)
    assert select_logits(graph)
    assert str(graph) == str(parse(expected.replace("        ", "")))
    rows = compute(
        parse("graph main: FUSED\ninput logits_rows: i32[R] as logits_rows\noutput logits_rows")
    )[0]
    (actual,) = compute(graph)
    # Fewer rows, the same sums; a matrix product of another height may round differently.
    assert (actual - whole[rows.long()]).abs().max() < 1e-5 * whole.abs().max()
    check_unchanged(select_logits, graph)


def test_the_selection_moves_up_through_row_wise_ops() -> None:
    """Head, cap and final norm see R rows; shapes that name T follow."""
    selected(
        f"{HEAD}%0: f32[T, 6] = rms_norm(x, @w)\n%1: f32[T, 2, 3] = reshape(%0) {{shape=(T, 2, 3)}}\n"
        "%2: f32[T, 6] = reshape(%1) {shape=(T, 6)}\n%3: f32[T, 9] = linear(%2, @head)\n"
        "%4: f32[T, 9] = tanh(%3)\n%5: f32[T, 9] = mul(%4, 30.0)\noutput %5",
        """
        graph main: FUSED
        input x: f32[T, 6]
        input r: f32[T, 6]
        input logits_rows: i32[R] as logits_rows
        const @w: f32[6] = @w:f32
        const @head: f32[9, 6] = @head:f32
        %0: f32[R, 6] = logits_rows(x, logits_rows)
        %1: f32[R, 6] = rms_norm(%0, @w)
        %2: f32[R, 2, 3] = reshape(%1) {shape=(R, 2, 3)}
        %3: f32[R, 6] = reshape(%2) {shape=(R, 6)}
        %4: f32[R, 9] = linear(%3, @head)
        %5: f32[R, 9] = tanh(%4)
        %6: f32[R, 9] = mul(%5, 30.0)
        output %6
        """,
    )


def test_it_stops_at_a_residual_sum() -> None:
    """Two token operands: the sum has other readers before the last layer ends."""
    selected(
        f"{HEAD}%0: f32[T, 6], %1: f32[T, 6] = rms_norm(x, r, @w) {{add=True}}\n"
        "%2: f32[T, 9] = linear(%1, @head)\noutput %2",
        """
        graph main: FUSED
        input x: f32[T, 6]
        input r: f32[T, 6]
        input logits_rows: i32[R] as logits_rows
        const @w: f32[6] = @w:f32
        const @head: f32[9, 6] = @head:f32
        %0: f32[T, 6], %1: f32[T, 6] = rms_norm(x, r, @w) {add=True}
        %2: f32[R, 6] = logits_rows(%1, logits_rows)
        %3: f32[R, 9] = linear(%2, @head)
        output %3
        """,
    )


def test_a_graph_that_ends_in_no_row_wise_op() -> None:
    selected(
        f"{HEAD}%0: f32[T, 6] = add(x, r)\noutput %0",
        """
        graph main: FUSED
        input x: f32[T, 6]
        input r: f32[T, 6]
        input logits_rows: i32[R] as logits_rows
        %0: f32[T, 6] = add(x, r)
        %1: f32[R, 6] = logits_rows(%0, logits_rows)
        output %1
        """,
    )
