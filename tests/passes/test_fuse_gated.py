"""A gated MLP's projections and activation become one linear layer."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.passes.fuse_gated import fuse_gated
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: MODEL
input x: f32[T, 6]
const @gate: f32[20, 6] = @gate:f32
const @up: f32[20, 6] = @up:f32
const @both: f32[40, 6] = @both:f32
"""
PAIR = """\
%0: f32[T, 20] = linear(x, @gate)    # mlp.gate_proj
%1: f32[T, 20] = linear(x, @up)    # mlp.up_proj
%2: f32[T, 20] = silu(%0)
%3: f32[T, 20] = mul(%2, %1)
output %3
"""


def test_two_projections() -> None:
    """Gate and up rows alternate by panels of 16; 20 outputs are padded to 32 each."""
    check(
        fuse_gated,
        HEAD + PAIR,
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @gate|up: f32[64, 6] = interleave_panels(slice(@gate:f32, 0, 0, 20), slice(@up:f32, 0, 0, 20))
        %0: f32[T, 20] = linear(x, @gate|up) {act="silu", gated=True, out=20}    # mlp.gate_proj
        output %0
        """,
    )


def test_the_product_may_be_written_either_way() -> None:
    check(
        fuse_gated,
        HEAD + PAIR.replace("mul(%2, %1)", "mul(%1, %2)").replace("silu", "gelu_tanh"),
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @gate|up: f32[64, 6] = interleave_panels(slice(@gate:f32, 0, 0, 20), slice(@up:f32, 0, 0, 20))
        %0: f32[T, 20] = linear(x, @gate|up) {act="gelu_tanh", gated=True, out=20}    # mlp.gate_proj
        output %0
        """,
    )


def test_one_projection_that_is_cut_in_halves() -> None:
    check(
        fuse_gated,
        f"""{HEAD}%0: f32[T, 40] = linear(x, @both)
%1: f32[T, 20] = slice(%0) {{dim=-1, start=20, stop=40}}
%2: f32[T, 20] = slice(%0) {{dim=-1, start=0, stop=20}}
%3: f32[T, 20] = silu(%2)
%4: f32[T, 20] = mul(%3, %1)
output %4
""",
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @both: f32[64, 6] = interleave_panels(slice(@both:f32, 0, 0, 20), slice(@both:f32, 0, 20, 40))
        %0: f32[T, 20] = linear(x, @both) {act="silu", gated=True, out=20}
        output %0
        """,
    )


def test_one_projection_with_alternating_rows() -> None:
    """Even rows gate, odd rows are the values, and biases go along."""
    check(
        fuse_gated,
        f"""{HEAD}const @b: f32[40] = @b:f32
%0: f32[T, 40] = linear(x, @both, @b) {{bias=True}}
%1: f32[T, 20] = slice(%0) {{dim=-1, start=0, stop=40, step=2}}
%2: f32[T, 20] = slice(%0) {{dim=-1, start=1, stop=40, step=2}}
%3: f32[T, 20] = silu(%1)
%4: f32[T, 20] = mul(%3, %2)
output %4
""",
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @both: f32[64, 6] = interleave_panels(take(@both:f32, computed(rows 0:40:2, 3bf2f5e30e8a06e9), 0), take(@both:f32, computed(rows 1:40:2, e7091584382d9391), 0))
        const @b: f32[64] = interleave_panels(take(@b:f32, computed(rows 0:40:2, 3bf2f5e30e8a06e9), 0), take(@b:f32, computed(rows 1:40:2, e7091584382d9391), 0))
        %0: f32[T, 20] = linear(x, @both, @b) {bias=True, act="silu", gated=True, out=20}
        output %0
        """,
    )


def test_experts_with_biases() -> None:
    """Grouped linears fuse alike; which operand is the bias follows from the op, not its name."""
    check(
        fuse_gated,
        """
        graph main: MODEL
        input x: f32[T, 6]
        input choice: i32[T, 2]
        const @w: f32[4, 40, 6] = @w:f32
        const @offset: f32[4, 40] = @offset:f32
        %0: i32[2*T], %1: i32[5], %2: i32[T, 2] = route_tokens(choice) {experts=4}
        %3: f32[2*T, 40] = grouped_linear(x, @w, @offset, %0, %1) {bias=True, gather=True}
        %4: f32[2*T, 20] = slice(%3) {dim=-1, start=0, stop=20}
        %5: f32[2*T, 20] = slice(%3) {dim=-1, start=20, stop=40}
        %6: f32[2*T, 20] = silu(%4)
        %7: f32[2*T, 20] = mul(%6, %5)
        output %7
        """,
        """
        graph main: MODEL
        input x: f32[T, 6]
        input choice: i32[T, 2]
        const @w: f32[4, 64, 6] = interleave_panels(slice(@w:f32, 1, 0, 20), slice(@w:f32, 1, 20, 40))
        const @offset: f32[4, 64] = reshape(interleave_panels(reshape(slice(@offset:f32, 1, 0, 20), [4, 20, 1]), reshape(slice(@offset:f32, 1, 20, 40), [4, 20, 1])), [4, 64])
        %0: i32[2*T], %1: i32[5], %2: i32[T, 2] = route_tokens(choice) {experts=4}
        %3: f32[2*T, 20] = grouped_linear(x, @w, @offset, %0, %1) {bias=True, act="silu", gated=True, out=20, gather=True}
        output %3
        """,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("silu(%0)", "exp(%0)"),
        ("linear(x, @up)", "linear(y, @up)"),
        ("linear(x, @up)", 'linear(x, @up) {act="relu"}'),
        ("mul(%2, %1)", "add(%2, %1)"),
        ("linear(x, @up)", "linear(x, w)"),
    ],
)
def test_almost_a_gated_pair(old: str, new: str) -> None:
    """An activation that kernels lack, another input, an epilogue, a sum, a computed weight."""
    text = f"{HEAD}input y: f32[T, 6]\ninput w: f32[20, 6]\n{PAIR}"
    assert old in text
    check_declined(fuse_gated, text.replace(old, new))
