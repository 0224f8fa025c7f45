"""Activations and residual sums become epilogues of linear layers."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.passes.fuse_epilogues import fuse_epilogues
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: MODEL
input x: f32[T, 6]
input r: f32[T, 4]
const @w: f32[4, 6] = @w:f32
const @b: f32[4] = @b:f32
"""


def test_an_activation() -> None:
    check(
        fuse_epilogues,
        f"{HEAD}%0: f32[T, 4] = linear(x, @w, @b) {{bias=True}}\n%1: f32[T, 4] = relu2(%0)\noutput %1",
        """
        graph main: MODEL
        input x: f32[T, 6]
        input r: f32[T, 4]
        const @w: f32[4, 6] = @w:f32
        const @b: f32[4] = @b:f32
        %0: f32[T, 4] = linear(x, @w, @b) {bias=True, act="relu2"}
        output %0
        """,
    )


def test_an_activation_and_then_a_residual() -> None:
    """In that order, which is the kernel's; the residual may be either operand."""
    check(
        fuse_epilogues,
        f"{HEAD}%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = silu(%0)\n"
        "%2: f32[T, 4] = add(%1, r)\n%3: f32[T, 4] = linear(x, @w)\n%4: f32[T, 4] = add(%2, %3)\n"
        "output %4",
        """
        graph main: MODEL
        input x: f32[T, 6]
        input r: f32[T, 4]
        const @w: f32[4, 6] = @w:f32
        %0: f32[T, 4] = linear(x, @w, r) {residual=True, act="silu"}
        %1: f32[T, 4] = linear(x, @w, %0) {residual=True}
        output %1
        """,
    )


MORE = """input narrow: f32[T, 1]
input heads: f32[T, 2, 6]
const @h: f32[2, 4, 6] = @h:f32
"""


@pytest.mark.parametrize(
    "lines",
    [
        "%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = exp(%0)",
        "%0: f32[T, 4] = linear(x, @w) {softcap=2.0}\n%1: f32[T, 4] = silu(%0)",
        "%0: f32[T, 4] = linear(x, @w, r) {residual=True}\n%1: f32[T, 4] = silu(%0)",
        '%0: f32[T, 4] = linear(x, @w) {act="silu"}\n%1: f32[T, 4] = silu(%0)',
        "%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = add(%0, @b)",
        "%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = add(%0, narrow)",
        "%0: f32[T, 4] = linear(x, @w)\n%2: f32[T, 4] = neg(%0)\n%3: f32[T, 4] = silu(%0)\n"
        "%1: f32[T, 4] = mul(%2, %3)",
        "%0: f32[T, 2, 4] = head_linear(heads, @h)\n%1: f32[T, 2, 4] = silu(%0)",
    ],
)
def test_what_no_epilogue_can_hold(lines: str) -> None:
    """Functions that kernels lack, what stands in the wrong order, operands that are no residual,
    and a result with another reader.
    """
    check_declined(fuse_epilogues, f"{HEAD}{MORE}{lines}\noutput %1")
