"""A residual sum joins the norm that reads it."""

import pytest
from llmc.passes.fuse_residual_norm import fuse_residual_norm
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: MODEL
input x: f32[T, 6]
input r: f32[T, 6]
const @w: f32[6] = @w:f32
const @v: f32[6] = @v:f32
"""


def test_the_sum_is_the_first_result() -> None:
    """The next residual reads the sum; of two norms of one sum, the first has it."""
    check(
        fuse_residual_norm,
        f"{HEAD}%0: f32[T, 6] = add(x, r)\n%1: f32[T, 6] = rms_norm(%0, @w)\n"
        "%2: f32[T, 6] = rms_norm(%0, @v)\n%3: f32[T, 6] = add(%0, %1)\n"
        "output %3\noutput %2",
        """
        graph main: MODEL
        input x: f32[T, 6]
        input r: f32[T, 6]
        const @w: f32[6] = @w:f32
        const @v: f32[6] = @v:f32
        %0: f32[T, 6], %1: f32[T, 6] = rms_norm(x, r, @w) {add=True}
        %2: f32[T, 6] = rms_norm(%0, @v)
        %3: f32[T, 6] = add(%0, %1)
        output %3
        output %2
        """,
    )


@pytest.mark.parametrize(
    "lines",
    [
        "%0: f32[T, 6] = add(x, @w)\n%1: f32[T, 6] = rms_norm(%0, @v)",
        "%0: f32[T, 6] = mul(x, r)\n%1: f32[T, 6] = rms_norm(%0, @w)",
        "%0: f32[T, 6] = add(x, y)\n%1: f32[T, 6] = rms_norm(%0, @w)",
        "%0: f32[T, 6] = add(x, r)\n%1: f32[T, 6] = rms_norm(%0, late)",
    ],
)
def test_other_sums_stay(lines: str) -> None:
    """A bias, a product, a broadcast operand, a computed weight."""
    check_declined(
        fuse_residual_norm,
        f"{HEAD}input y: f32[T, 1]\ninput late: f32[6]\n{lines}\noutput %1",
    )
