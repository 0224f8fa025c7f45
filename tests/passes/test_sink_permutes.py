"""Permutes sink below what doesn't care, so that those that meet cancel."""

import pytest
from llmc.passes.sink_permutes import sink_permutes
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: TRACED
input x: f32[T, 2, 6]
const @w: f32[6] = @w:f32
%0: f32[2, T, 6] = permute(x) {dims=(-2, -3, -1)}
"""


@pytest.mark.parametrize(
    ("op", "width"),
    [
        ("silu({})", 6), ("cast({}) {{dtype=f32}}", 6), ("rms_norm({}, @w)", 6),
        ("mul({}, @w)", 6), ("mul(@w, {})", 6), ("add({}, 0.5)", 6),
        ("slice({}) {{dim=-1, start=2, stop=5}}", 3), ("concat({0}, {0}) {{dim=-1}}", 12),
    ],
)  # fmt: skip
def test_a_permute_behind_the_op_cancels_the_next(op: str, width: int) -> None:
    """op(permute(x)) back in [T, H, D] is op(x)."""
    check(
        sink_permutes,
        f"{HEAD}%1: f32[2, T, {width}] = {op.format('%0')}\n"
        f"%2: f32[T, 2, {width}] = permute(%1) {{dims=(-2, -3, -1)}}\noutput %2",
        HEAD.split("%0")[0] + f"%0: f32[T, 2, {width}] = {op.format('x')}\noutput %0"
        if not op.startswith("cast")
        else HEAD.split("%0")[0] + "output x",
    )


@pytest.mark.parametrize(
    "line",
    [
        "%1: f32[2, T, 6] = add(%0, y)",
        "%1: f32[2, 2*T, 3] = reshape(%0) {shape=(2, 2*T, 3)}",
    ],
)
def test_ops_that_see_the_order_keep_their_permute(line: str) -> None:
    """An operand of the permuted shape, a reshape."""
    check_declined(sink_permutes, f"{HEAD}input y: f32[2, T, 6]\n{line}\noutput %1")


def test_a_slice_of_a_permuted_dimension_is_one_of_where_that_comes_from() -> None:
    check(
        sink_permutes,
        """
        graph main: TRACED
        input x: f32[T, 6]
        %0: f32[6, T] = permute(x) {dims=(-1, -2)}
        %1: f32[2, T] = slice(%0) {dim=-2, start=3, stop=5}
        %2: f32[T, 2] = permute(%1) {dims=(-1, -2)}
        output %2
        """,
        """
        graph main: TRACED
        input x: f32[T, 6]
        %0: f32[T, 2] = slice(x) {dim=-1, start=3, stop=5}
        output %0
        """,
    )


def test_operands_that_are_permuted_alike_sink_together() -> None:
    head = "graph main: TRACED\ninput x: f32[T, 6]\ninput y: f32[T, 6]\n"
    check(
        sink_permutes,
        head
        + """
        %0: f32[6, T] = permute(x) {dims=(-1, -2)}
        %1: f32[6, T] = permute(y) {dims=(-1, -2)}
        %2: f32[6, T] = mul(%0, %1)
        %3: f32[T, 6] = permute(%2) {dims=(-1, -2)}
        output %3
        """,
        head + "%0: f32[T, 6] = mul(x, y)\noutput %0",
    )


def test_a_norm_over_a_permuted_dimension_stays() -> None:
    check_declined(
        sink_permutes,
        """
        graph main: TRACED
        input x: f32[T, 6, 2]
        %0: f32[T, 2, 6] = permute(x) {dims=(-3, -1, -2)}
        %1: f32[T, 2, 6] = rms_norm(%0) {weight=False}
        output %1
        """,
    )
