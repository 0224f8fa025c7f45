"""Activations from arithmetic."""

import pytest
from llmc.passes.raise_activation import raise_activation
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = "graph main: TRACED\ninput x: f32[T, 6]\nconst @w: f32[4, 6] = @w:f32\n"
GELU = """\
%0: f32[T, 6] = mul(x, 0.5)
%1: f32[T, 6] = pow(x, 3.0)
%2: f32[T, 6] = mul(%1, 0.044715)
%3: f32[T, 6] = add(x, %2)
%4: f32[T, 6] = mul(%3, 0.7978845608028654)
%5: f32[T, 6] = tanh(%4)
%6: f32[T, 6] = add(%5, 1.0)
%7: f32[T, 6] = mul(%0, %6)
output %7
"""


def test_gelu_by_tanh() -> None:
    check(raise_activation, HEAD + GELU, f"{HEAD}%0: f32[T, 6] = gelu_tanh(x)\noutput %0")


def test_gelu_with_x_taken_out_of_the_sum() -> None:
    """0.5 x (1 + tanh(0.79788456 x (1 + 0.044715 x x)))."""
    text = """%0: f32[T, 6] = mul(x, 0.5)
    %1: f32[T, 6] = mul(x, 0.79788456)
    %2: f32[T, 6] = mul(x, 0.044715)
    %3: f32[T, 6] = mul(%2, x)
    %4: f32[T, 6] = add(%3, 1.0)
    %5: f32[T, 6] = mul(%1, %4)
    %6: f32[T, 6] = tanh(%5)
    %7: f32[T, 6] = add(%6, 1.0)
    %8: f32[T, 6] = mul(%0, %7)
    output %8
    """
    check(raise_activation, HEAD + text, f"{HEAD}%0: f32[T, 6] = gelu_tanh(x)\noutput %0")


def test_other_constants_are_no_gelu() -> None:
    check_declined(raise_activation, HEAD + GELU.replace("0.044715", "0.0447"))


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("%0: f32[T, 6] = sigmoid(x)\n%1: f32[T, 6] = mul(%0, x)", "silu"),
        ("%0: f32[T, 6] = relu(x)\n%1: f32[T, 6] = square(%0)", "relu2"),
    ],
)
def test_short_activations(lines: str, name: str) -> None:
    check(
        raise_activation,
        f"{HEAD}{lines}\noutput %1",
        f"{HEAD}%0: f32[T, 6] = {name}(x)\noutput %0",
    )


def test_a_gate_that_is_another_value_is_no_silu() -> None:
    text = "input y: f32[T, 6]\n%0: f32[T, 6] = sigmoid(x)\n%1: f32[T, 6] = mul(%0, y)\noutput %1"
    check_declined(raise_activation, HEAD + text)


@pytest.mark.parametrize("inner", ["div(%0, 8.0)", "mul(%0, 0.125)"])
def test_a_capped_linear(inner: str) -> None:
    """cap * tanh(y / cap), however the quotient is written, is the linear's epilogue."""
    check(
        raise_activation,
        f"{HEAD}%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = {inner}\n"
        "%2: f32[T, 4] = tanh(%1)\n%3: f32[T, 4] = mul(%2, 8.0)\noutput %3",
        f"{HEAD}%0: f32[T, 4] = linear(x, @w) {{softcap=8.0}}\noutput %0",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [("mul(%2, 8.0)", "mul(%2, 7.0)"), ("linear(x, @w)", "linear(x, @w) {softcap=8.0}"),
     ("f32[T, 4] = linear(x, @w)", "f32[T, 4] = slice(x) {dim=-1, start=0, stop=4}")],
)  # fmt: skip
def test_caps_that_stay(old: str, new: str) -> None:
    """Two different factors, a linear that is capped already, and what is no linear."""
    text = (
        f"{HEAD}%0: f32[T, 4] = linear(x, @w)\n%1: f32[T, 4] = div(%0, 8.0)\n"
        "%2: f32[T, 4] = tanh(%1)\n%3: f32[T, 4] = mul(%2, 8.0)\noutput %3"
    )
    assert old in text
    check_declined(raise_activation, text.replace(old, new))
