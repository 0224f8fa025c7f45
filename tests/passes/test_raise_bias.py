"""A constant that is added behind a linear layer is its bias."""

import pytest
from llmc.passes.raise_bias import raise_bias
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """graph main: TRACED
input x: f32[T, 6]
const @w: f32[4, 6] = @w:f32
const @b: f32[4] = @b:f32
"""
PLAIN = "%0: f32[T, 4] = linear(x, @w)\n"


@pytest.mark.parametrize("order", ["%0, @b", "@b, %0"])
def test_a_sum_in_any_order(order: str) -> None:
    check(
        raise_bias,
        f"{HEAD}{PLAIN}%1: f32[T, 4] = add({order})\noutput %1",
        f"{HEAD}%0: f32[T, 4] = linear(x, @w, @b) {{bias=True}}\noutput %0",
    )


@pytest.mark.parametrize(
    "lines",
    [
        "%1: f32[T, 4] = add(%0, 1.0)\noutput %1",
        "%1: f32[T, 4] = add(%0, @b)\n%2: f32[T, 4] = mul(%1, %0)\noutput %2",
    ],
    ids=["a number", "read without it too"],
)
def test_other_sums_stay(lines: str) -> None:
    check_declined(raise_bias, HEAD + PLAIN + lines)


def test_a_bias_of_tokens_is_none() -> None:
    """[1, 4] over [T, 4] broadcasts alike, but the layer takes one vector."""
    head = HEAD.replace("@b: f32[4]", "@b: f32[1, 4]")
    check_declined(raise_bias, f"{head}{PLAIN}%1: f32[T, 4] = add(%0, @b)\noutput %1")
