"""Attention that a model spells out becomes one node; what isn't attention is left to the proof."""

import re

import pytest
import torch
from llmc.ir.graph import Graph
from llmc.ir.ops import Attention
from llmc.ir.parser import parse
from llmc.ir.recipe import Computed
from llmc.ir.verifier import verify
from llmc.passes.raise_attention import raise_attention, why_not_raised
from pass_cases import check, check_declined, check_unchanged, compute

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


POSITIONS = """
graph main: TRACED
input positions: i64[T] as positions
input q: f32[2, T, 8]
input k: f32[2, T, 8]
input v: f32[2, T, 6]
%0: f32[2, 8, T] = permute(k) {dims=(-3, -1, -2)}
%1: f32[2, T, T] = mat_mul(q, %0)
%2: i64[T, 1] = reshape(positions) {shape=(T, 1)}
%3: i64[1, T] = reshape(positions) {shape=(1, T)}
%4: bool[T, T] = le(%3, %2)
"""
LEAST = "-3.0e+38"
SPELLED = {
    "chosen": (f"%9: f32[2, T, T] = where(%4, %1, {LEAST})\n", 1.0, 0),
    "filled": (
        f"""%5: bool[T, T] = gt(%3, %2)
        %6: f32[2, T, T] = where(%5, {LEAST}, %1)
        %9: f32[2, T, T] = mul(0.5, %6)
        """,
        0.5,
        0,
    ),
    "multiplied": (
        """%5: f32[T, T] = cast(%4) {dtype=f32}
        %6: f32[2, T, T] = mul(%1, %5)
        %7: f32[T, T] = sub(1.0, %5)
        %8: f32[T, T] = mul(-10000.0, %7)
        %9: f32[2, T, T] = add(%6, %8)
        """,
        1.0,
        0,
    ),
    "a window, a maximum and a second mask": (
        f"""%5: i64[T, T] = sub(%2, %3)
        %6: bool[T, T] = lt(%5, 3)
        %7: f32[2, T, T] = where(%6, %1, {LEAST})
        %8: f32[2, T, T] = maximum(%7, {LEAST})
        %10: f32[T, T] = causal_mask() {{shape=(T, T)}}
        %9: f32[2, T, T] = add(%8, %10)
        """,
        1.0,
        3,
    ),
    "reshaped, cast and subtracted": (
        f"""%5: f32[1, 2, T, T] = reshape(%1) {{shape=(1, 2, T, T)}}
        %6: f32[T, T] = where(%4, 0.0, 3.0e+38)
        %7: f32[1, 2, T, T] = sub(%5, %6)
        %8: f32[1, 2, T, T] = maximum({LEAST}, %7)
        %10: f32[1, 2, T, T] = cast(%8) {{dtype=f32}}
        %9: f32[2, T, T] = reshape(%10) {{shape=(2, T, T)}}
        """,
        1.0,
        0,
    ),
}
POSITIONS_END = """%20: f32[2, T, T] = softmax(%9) {dim=-1}
%21: f32[2, T, 6] = mat_mul(%20, v)
output %21
"""


def renumbered(text: str) -> str:
    """Graph text whose results are numbered in order, as the parser wants them."""
    names: dict[str, str] = {}

    def new(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"%{len(names)}")

    lines = []
    for line in filter(None, map(str.strip, text.splitlines())):
        lines.append(re.sub(r"%\d+", new, line))
    return "\n".join(lines)


def raise_all(text: str, tolerance: float = 1e-5) -> Attention:
    """The one attention of the raised graph, which computes what the graph did before."""
    graph = parse(renumbered(text))
    verify(graph)
    before = compute(graph)
    assert raised(graph)
    verify(graph)
    for now, then in zip(compute(graph), before, strict=True):
        torch.testing.assert_close(now, then, rtol=tolerance, atol=tolerance)
    check_unchanged(raised, graph)
    (op,) = (node.op for node in graph.nodes if isinstance(node.op, Attention))
    return op


@pytest.mark.parametrize("name", SPELLED)
def test_masks_of_any_make(name: str) -> None:
    """Comparisons of positions, as bools and as numbers, before and behind the scale."""
    steps, scale, window = SPELLED[name]
    op = raise_all(POSITIONS + steps + POSITIONS_END)
    assert op == Attention(scale, window)


@pytest.mark.parametrize(
    "bias",
    [
        """%5: f32[1, T] = cast(%3) {dtype=f32}
        %6: f32[2, T, T] = add(%1, %5)
        """,
        """%5: i64[T, T] = sub(%3, %2)
        %7: f32[T, T] = cast(%5) {dtype=f32}
        %6: f32[2, T, T] = add(%7, %1)
        """,
        """%5: i64[] = token_count()
        %7: i64[1, T] = sub(%3, %5)
        %8: f32[1, T] = cast(%7) {dtype=f32}
        %6: f32[2, T, T] = add(%1, %8)
        """,
    ],
    ids=["key position", "distance", "position from the end"],
)
def test_lines_over_the_distance_are_slopes(bias: str) -> None:
    """However the model counts: what all keys of a query have in common doesn't matter."""
    scaled = f"%8: f32[2, T, T] = where(%4, %6, {LEAST})\n%9: f32[2, T, T] = mul(%8, 0.25)\n"
    scaled = scaled.replace("%8", "%18")
    assert raise_all(POSITIONS + bias + scaled + POSITIONS_END) == Attention(0.25, slopes=True)


def test_each_head_has_its_slope() -> None:
    """Numbers that f32 has no exact products of: the slope is the one that they began with."""
    text = renumbered(
        POSITIONS
        + f"""%30: i64[2] = iota() {{size=2}}
        %31: f32[2] = cast(%30) {{dtype=f32}}
        %32: f32[2] = add(%31, 0.7)
        %33: f32[2] = mul(%32, 0.1)
        %34: f32[2, 1, 1] = reshape(%33) {{shape=(2, 1, 1)}}
        %35: f32[1, T] = cast(%3) {{dtype=f32}}
        %36: f32[2, 1, T] = mul(%34, %35)
        %37: f32[2, T, T] = add(%1, %36)
        %9: f32[2, T, T] = where(%4, %37, {LEAST})
        """
        + POSITIONS_END
    )
    graph = parse(text)
    before = compute(graph)
    assert raised(graph)
    torch.testing.assert_close(compute(graph), before, rtol=1e-5, atol=1e-5)
    (node,) = (node for node in graph.nodes if isinstance(node.op, Attention))
    recipe = node.inputs[3].recipe
    assert isinstance(recipe, Computed)
    slopes = (torch.arange(2.0) + 0.7) * 0.1
    torch.testing.assert_close(torch.from_numpy(recipe.value.copy()), slopes, rtol=2e-7, atol=0)


def test_grouped_heads_and_odd_ranks() -> None:
    """[H_kv, H / H_kv, T, D] over [H_kv, 1, …], and one head of keys for all."""
    text = """
    graph main: TRACED
    input q: f32[2, 3, T, 8]
    input k: f32[2, 1, 8, T]
    input v: f32[2, 1, T, 6]
    %0: f32[2, 3, T, T] = mat_mul(q, k)
    %1: f32[T, T] = causal_mask() {shape=(T, T)}
    %2: f32[2, 3, T, T] = add(%0, %1)
    %3: f32[2, 3, T, T] = softmax(%2) {dim=-1}
    %4: f32[6, T, T] = reshape(%3) {shape=(6, T, T)}
    %5: f32[2, 3, T, T] = reshape(%4) {shape=(2, 3, T, T)}
    %6: f32[2, 3, T, 6] = mat_mul(%5, v)
    output %6
    """
    assert raise_all(text) == Attention(1.0)
    one = text.replace("k: f32[2, 1,", "k: f32[1, 1,").replace("v: f32[2, 1,", "v: f32[1,")
    assert raise_all(one) == Attention(1.0)


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


DECLINED = {
    "tokens see later ones": "%9: f32[2, T, T] = mul(%1, 0.5)\n",
    "hides tokens that neither come later nor lie behind a window": f"""
        %5: i64[1, T] = remainder(%3, 7)
        %6: bool[1, T] = ne(%5, 3)
        %7: bool[T, T] = eq(%2, %3)
        %8: bool[T, T] = logical_or(%6, %7)
        %10: bool[T, T] = logical_and(%8, %4)
        %9: f32[2, T, T] = where(%10, %1, {LEAST})
        """,
    "a token doesn't see itself": f"""%5: bool[T, T] = lt(%3, %2)
        %9: f32[2, T, T] = where(%5, %1, {LEAST})
        """,
    "scaled by numbers that depend on positions": f"""%5: f32[1, T] = cast(%3) {{dtype=f32}}
        %6: f32[2, T, T] = mul(%1, %5)
        %9: f32[2, T, T] = where(%4, %6, {LEAST})
        """,
    "no line over the distance": f"""%5: i64[1, T] = mul(%3, %3)
        %6: f32[1, T] = cast(%5) {{dtype=f32}}
        %7: f32[2, T, T] = add(%1, %6)
        %9: f32[2, T, T] = where(%4, %7, {LEAST})
        """,
    "table of positions ends before 40 tokens": f"""%5: i64[30] = iota() {{size=30}}
        %6: i64[30, 1] = reshape(%5) {{shape=(30, 1)}}
        %7: i64[T, 1] = embedding(%6, positions)
        %8: bool[T, T] = le(%3, %7)
        %9: f32[2, T, T] = where(%8, %1, {LEAST})
        """,
    "tanh does to the scores": f"""%5: f32[2, T, T] = tanh(%1)
        %9: f32[2, T, T] = where(%4, %5, {LEAST})
        """,
    "add does to the scores": f"""%5: f32[2, T, T] = permute(%1) {{dims=(-3, -1, -2)}}
        %6: f32[2, T, T] = add(%1, %5)
        %9: f32[2, T, T] = where(%4, %6, {LEAST})
        """,
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_is_no_causal_attention_is_told(reason: str) -> None:
    graph = parse(renumbered(POSITIONS + DECLINED[reason] + POSITIONS_END))
    verify(graph)
    graph.erase_dead()
    check_unchanged(raised, graph)
    told = why_not_raised(graph, TOKENS)
    assert told is not None
    assert reason in told[1]


def test_windows_that_heads_don_t_share_are_told() -> None:
    text = (
        POSITIONS
        + f"""%5: i64[2] = iota() {{size=2}}
        %6: i64[2, 1, 1] = reshape(%5) {{shape=(2, 1, 1)}}
        %7: i64[T, T] = sub(%2, %3)
        %8: i64[2, T, T] = mul(%6, %7)
        %10: bool[2, T, T] = lt(%8, 5)
        %11: bool[2, T, T] = logical_and(%10, %4)
        %9: f32[2, T, T] = where(%11, %1, {LEAST})
        """
        + POSITIONS_END
    )
    graph = parse(renumbered(text))
    check_unchanged(raised, graph)
    told = why_not_raised(graph, TOKENS)
    assert told is not None
    assert "hides tokens" in told[1]


def test_heads_that_keys_don_t_fit_are_told() -> None:
    text = """
    graph main: TRACED
    input q: f32[2, 3, T, 8]
    input k: f32[1, 3, 8, T]
    input v: f32[2, 3, T, 6]
    %0: f32[2, 3, T, T] = mat_mul(q, k)
    %1: f32[T, T] = causal_mask() {shape=(T, T)}
    %2: f32[2, 3, T, T] = add(%0, %1)
    %3: f32[2, 3, T, T] = softmax(%2) {dim=-1}
    %4: f32[2, 3, T, 6] = mat_mul(%3, v)
    output %4
    """
    graph = parse(renumbered(text))
    check_unchanged(raised, graph)
    told = why_not_raised(graph, TOKENS)
    assert told is not None
    assert "don't share keys" in told[1]
