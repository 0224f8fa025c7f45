"""Keys and values that are made of one latent become attention to latents."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.ir.graph import Graph
from llmc.ir.parser import parse
from llmc.passes.raise_latent import raise_latent
from pass_cases import check

pytestmark = pytest.mark.fast

HEAD = """
graph main: MODEL
input q: f32[T, 4, 24]
input c: f32[T, 16]
input k: f32[T, 8]
input cos: f32[T, 4]
input sin: f32[T, 4]
const @kv: f32[112, 16] = @kv:f32
const @sinks: f32[4] = @sinks:f32
"""
# Heads first, as models have them; the rotated part is put apart, in queries and keys alike.
USUAL = """
%0: f32[T, 4, 16] = slice(q) {dim=-1, start=0, stop=16}
%1: f32[4, T, 16] = permute(%0) {dims=(-2, -3, -1)}
%2: f32[T, 4, 8] = slice(q) {dim=-1, start=16, stop=24}
%3: f32[T, 4, 8] = rotary(%2, cos, sin) {dim=8, interleaved=True}
%4: f32[T, 4, 4] = slice(%3) {dim=-1, start=0, stop=8, step=2}
%5: f32[T, 4, 4] = slice(%3) {dim=-1, start=1, stop=8, step=2}
%6: f32[T, 4, 8] = concat(%4, %5) {dim=-1}
%7: f32[4, T, 8] = permute(%6) {dims=(-2, -3, -1)}
%8: f32[4, T, 24] = concat(%1, %7) {dim=-1}
%9: f32[1, T, 16] = reshape(c) {shape=(1, T, 16)}
%10: f32[1, T, 112] = linear(%9, @kv)
%11: f32[T, 4, 28] = reshape(%10) {shape=(T, 4, 28)}
%12: f32[T, 4, 16] = slice(%11) {dim=-1, start=0, stop=16}
%13: f32[4, T, 16] = permute(%12) {dims=(-2, -3, -1)}
%14: f32[T, 4, 12] = slice(%11) {dim=-1, start=16, stop=28}
%15: f32[T, 1, 8] = reshape(k) {shape=(T, 1, 8)}
%16: f32[T, 1, 8] = rotary(%15, cos, sin) {dim=8, interleaved=True}
%17: f32[T, 1, 4] = slice(%16) {dim=-1, start=0, stop=8, step=2}
%18: f32[T, 1, 4] = slice(%16) {dim=-1, start=1, stop=8, step=2}
%19: f32[T, 1, 8] = concat(%17, %18) {dim=-1}
%20: f32[1, T, 8] = reshape(%19) {shape=(1, T, 8)}
%21: f32[4, T, 8] = expand(%20) {shape=(4, T, 8)}
%22: f32[4, T, 24] = concat(%13, %21) {dim=-1}
%23: f32[T, 4, 24] = permute(%8) {dims=(-2, -3, -1)}
%24: f32[T, 4, 24] = permute(%22) {dims=(-2, -3, -1)}
"""


def test_the_usual_form() -> None:
    check(
        raise_latent,
        f"{HEAD}{USUAL}%25: f32[T, 4, 12] = attention(%23, %24, %14) {{scale=0.2}}\noutput %25",
        """
        graph main: MODEL
        input q: f32[T, 4, 24]
        input c: f32[T, 16]
        input k: f32[T, 8]
        input cos: f32[T, 4]
        input sin: f32[T, 4]
        const @kv.keys: f32[4, 16, 16] = permute(slice(reshape(@kv:f32, [4, 28, 16]), 1, 0, 16), [0, 2, 1])
        const @kv.values: f32[4, 12, 16] = slice(reshape(@kv:f32, [4, 28, 16]), 1, 16, 28)
        %0: f32[T, 4, 8] = slice(q) {dim=-1, start=16, stop=24}
        %1: f32[T, 4, 8] = rotary(%0, cos, sin) {dim=8, interleaved=True}
        %2: f32[T, 1, 8] = reshape(k) {shape=(T, 1, 8)}
        %3: f32[T, 1, 8] = rotary(%2, cos, sin) {dim=8, interleaved=True}
        %4: f32[T, 4, 16] = slice(q) {dim=-1, start=0, stop=16}
        %5: f32[T, 4, 16] = head_linear(%4, @kv.keys)
        %6: f32[T, 4, 16] = latent_attention(%5, c, %1, %3) {scale=0.2, rope=True}
        %7: f32[T, 4, 12] = head_linear(%6, @kv.values)
        output %7
        """,
    )


def test_projections_of_their_own_without_a_shared_part() -> None:
    """Elements of a head that lie apart; window, cap and sinks stay."""
    check(
        raise_latent,
        """
        graph main: MODEL
        input q: f32[T, 4, 8]
        input c: f32[T, 6]
        const @k: f32[32, 6] = @k:f32
        const @v: f32[36, 6] = @v:f32
        const @sinks: f32[4] = @sinks:f32
        %0: f32[T, 32] = linear(c, @k)
        %1: f32[T, 8, 4] = reshape(%0) {shape=(T, 8, 4)}
        %2: f32[T, 4, 8] = permute(%1) {dims=(-3, -1, -2)}
        %3: f32[T, 36] = linear(c, @v)
        %4: f32[T, 4, 9] = reshape(%3) {shape=(T, 4, 9)}
        %5: f32[T, 4, 9] = attention(q, %2, %4, @sinks) {scale=0.2, window=9, softcap=3.0, sinks=True}
        output %5
        """,
        """
        graph main: MODEL
        input q: f32[T, 4, 8]
        input c: f32[T, 6]
        const @k.keys: f32[4, 6, 8] = permute(reshape(take(@k:f32, computed(k.rows, 3e4d5c9a93676be0), 0), [4, 8, 6]), [0, 2, 1])
        const @v.values: f32[4, 9, 6] = slice(reshape(@v:f32, [4, 9, 6]), 1, 0, 9)
        const @sinks: f32[4] = @sinks:f32
        %0: f32[T, 4, 6] = head_linear(q, @k.keys)
        %1: f32[T, 4, 6] = latent_attention(%0, c, @sinks) {scale=0.2, window=9, softcap=3.0, sinks=True}
        %2: f32[T, 4, 9] = head_linear(%1, @v.values)
        output %2
        """,
    )


def test_a_shared_part_of_queries_in_another_order_is_moved() -> None:
    """Queries whose parts don't lie as those of keys do: slices as they are."""
    before = f"{HEAD}{USUAL}%25: f32[T, 4, 12] = attention(%23, %24, %14) {{scale=0.2}}\noutput %25"
    unturned = "%7: f32[4, T, 8] = permute(%2) {dims=(-2, -3, -1)}\n"
    before = before.replace("%7: f32[4, T, 8] = permute(%6) {dims=(-2, -3, -1)}\n", unturned)
    graph = parse(before)
    assert raise_latent(graph)
    assert "concat" in str(graph)  # of the keys' halves
    assert "latent_attention" in str(graph)


def refused(attention: str, **changes: str) -> bool:
    text = f"{HEAD}{USUAL}{attention}\noutput %25"
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    graph = parse(text)
    raise_latent(graph)
    return "latent" not in str(graph)


def test_what_is_no_latent() -> None:
    usual = "%25: f32[T, 4, 12] = attention(%23, %24, %14) {scale=0.2}"
    assert not refused(usual)
    shared = "%21: f32[4, T, 8] = expand(%20) {shape=(4, T, 8)}"
    assert refused(usual, **{shared: "%21: f32[4, T, 8] = neg(%7)"})  # each head its own
    keys = "%13: f32[4, T, 16] = permute(%12) {dims=(-2, -3, -1)}"
    assert refused(usual, **{keys: "%13: f32[4, T, 16] = neg(%1)"})  # not of the values' latent
    bias = "const @kv: f32[112, 16] = @kv:f32\nconst @b: f32[112] = @b:f32"
    assert refused(usual, **{
        "const @kv: f32[112, 16] = @kv:f32": bias,
        "linear(%9, @kv)": "linear(%9, @kv, @b) {bias=True}",
    })  # fmt: skip


@pytest.mark.parametrize(("rank", "raised"), [(16, True), (64, False), (96, False)])
def test_wide_latents_are_left_alone(rank: int, raised: bool) -> None:
    """Ordinary attention without positions: its keys and values are made of the hidden state."""
    assert raise_latent(wide(rank)) is raised


def wide(rank: int) -> Graph:
    return parse(
        f"""
graph main: MODEL
input x: f32[T, {rank}]
const @q: f32[64, {rank}] = @q:f32
const @k: f32[64, {rank}] = @k:f32
const @v: f32[64, {rank}] = @v:f32
%0: f32[T, 64] = linear(x, @q)
%1: f32[T, 64] = linear(x, @k)
%2: f32[T, 64] = linear(x, @v)
%3: f32[T, 4, 16] = reshape(%0) {{shape=(T, 4, 16)}}
%4: f32[T, 4, 16] = reshape(%1) {{shape=(T, 4, 16)}}
%5: f32[T, 4, 16] = reshape(%2) {{shape=(T, 4, 16)}}
%6: f32[T, 4, 16] = attention(%3, %4, %5) {{scale=0.25}}
output %6
"""
    )
