"""Attention that a model spells out becomes one node; what isn't attention is left to the proof."""

import pytest
from llmc.ir.graph import Graph
from llmc.passes.raise_attention import raise_attention
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

TOKENS = 40


def raised(graph: Graph) -> bool:
    return raise_attention(graph, TOKENS)


MULTI_HEAD = """
graph main: TRACED
input q: f32[2, T, 8]
input k: f32[2, T, 8]
input v: f32[2, T, 6]
"""
EXPECTED = """
graph main: TRACED
input q: f32[2, T, 8]
input k: f32[2, T, 8]
input v: f32[2, T, 6]
%0: f32[2, 8, T] = permute(k) {{dims=(-3, -1, -2)}}
%1: f32[T, 2, 8] = permute(q) {{dims=(-2, -3, -1)}}
%2: f32[T, 2, 8] = permute(%0) {{dims=(-1, -3, -2)}}
%3: f32[T, 2, 6] = permute(v) {{dims=(-2, -3, -1)}}
%4: f32[T, 2, 6] = attention(%1, %2, %3) {{{attributes}}}
%5: f32[2, T, 6] = permute(%4) {{dims=(-2, -3, -1)}}
output %5
"""
SCORES = """%0: f32[2, 8, T] = permute(k) {dims=(-3, -1, -2)}
%1: f32[2, T, T] = mat_mul(q, %0)
"""
MASK = "%2: f32[1, T, T] = causal_mask() {shape=(1, T, T)}\n"
WINDOW = "%2: f32[1, T, T] = causal_mask() {shape=(1, T, T), window=3}\n"
END = """%5: f32[2, T, T] = softmax(%4) {dim=-1}
%6: f32[2, T, 6] = mat_mul(%5, v)
output %6
"""


@pytest.mark.parametrize(
    ("scale_and_mask", "attributes"),
    [
        (
            f"{MASK}%3: f32[2, T, T] = mul(%1, 0.25)\n%4: f32[2, T, T] = add(%3, %2)\n",
            "scale=0.25",
        ),
        (
            f"{WINDOW}%3: f32[2, T, T] = div(%1, 4.0)\n%4: f32[2, T, T] = add(%2, %3)\n",
            "scale=0.25, window=3",
        ),
        (
            f"{MASK}%3: f32[2, T, T] = add(%1, %2)\n%4: f32[2, T, T] = div(%3, 2.0)\n",
            "scale=0.5",
        ),
    ],
    ids=["factor, then mask", "window, divisor", "mask, then divisor"],
)
def test_scale_and_mask_in_any_order(scale_and_mask: str, attributes: str) -> None:
    """Scale and window become attributes, whatever order the model applies them in."""
    check(
        raised,
        MULTI_HEAD + SCORES + scale_and_mask + END,
        EXPECTED.format(attributes=attributes),
    )


@pytest.mark.parametrize(
    "lines",
    [
        "%2: f32[2, T, T] = mul(%1, 0.25)\n%4: f32[2, T, T] = mul(%2, 1.5)\n",
        "%2: f32[2, T, T] = mul(%1, 0.25)\n%4: f32[2, T, T] = add(%2, %1)\n",
        f"{MASK}%3: f32[2, T, T] = exp(%1)\n%4: f32[2, T, T] = add(%3, %2)\n",
    ],
    ids=["no mask", "scores as mask", "no product"],
)
def test_other_arithmetic_stays(lines: str) -> None:
    """Without a causal mask, or over scores that are no product, it isn't causal attention."""
    check_declined(raised, MULTI_HEAD + SCORES + lines + END)
