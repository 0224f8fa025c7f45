"""Attention becomes cache writes and paged attention."""
# ruff: noqa: E501 (lines of graph text)

import textwrap

import pytest
import torch
from llmc.ir.graph import Graph, StateGroup
from llmc.ir.interpreter import interpret
from llmc.ir.ops import TORCH_DTYPE
from llmc.ir.parser import parse
from llmc.ir.states import LATENT, PAGED
from llmc.ir.states.key_value import KeyValueGeometry
from llmc.ir.types import DType
from llmc.ir.verifier import verify
from llmc.passes.lower_state import lower_state
from pass_cases import check_unchanged, constant

pytestmark = pytest.mark.fast

HEAD = """
graph main: QUANTIZED
input q: f32[T, 4, 8]
input k: f32[T, 2, 8]
input v: f32[T, 2, 8]
input c: f32[T, 3]
input s: f32[T, 3]
const @sinks: f32[4] = @sinks:f32
"""
ROTATED = "%0: f32[T, 2, 8] = rotary(k, c, s) {dim=6}\n"


def lower(graph: Graph) -> bool:
    return lower_state(graph, (PAGED, LATENT), DType.F32)


def check_lowered(before: str, expected: str) -> Graph:
    """The text is Expected, and one sequence in shuffled blocks gives what it gave before."""
    graph = parse(before)
    inputs = {v.name: torch.randn(40, *v.type.shape[1:]) for v in graph.inputs}  # type: ignore[misc]
    reference = interpret(graph, inputs, constant)
    assert lower(graph)
    verify(graph)
    assert str(graph) == str(parse(textwrap.dedent(expected)))
    inputs |= {"query_start": torch.tensor([0, 40]).int(), "context_len": torch.tensor([40]).int()}
    for value in graph.inputs:
        if "pool" in value.name:
            shape = (4, *value.type.shape[1:])
            inputs[value.name] = torch.full(shape, torch.nan, dtype=TORCH_DTYPE[value.type.dtype])  # type: ignore[arg-type]
        elif value.name.startswith("block_table"):
            inputs[value.name] = torch.tensor([[3, 1]]).int()
    actual = interpret(graph, inputs, constant)
    # The same formula on keys that came back from the cache.
    torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-5)
    check_unchanged(lower, graph)
    return graph


def test_a_rotary_that_only_the_cache_reads_joins_the_write() -> None:
    check_lowered(
        f"{HEAD}{ROTATED}%1: f32[T, 4, 8] = attention(q, %0, v) {{scale=0.5, window=8, softcap=20.0}}\noutput %1",
        """
        graph main: QUANTIZED
        input q: f32[T, 4, 8]
        input k: f32[T, 2, 8]
        input v: f32[T, 2, 8]
        input c: f32[T, 3]
        input s: f32[T, 3]
        input query_start: i32[S1] as query_start
        input context_len: i32[S] as context_len
        input block_table.0: i32[S, B] as table(0)
        input key_pool.0: f32[P0, 64, 2, 8] as state(0, key_pool)
        input value_pool.0: f32[P0, 64, 2, 8] as state(0, value_pool)
        group 0: paged {window=8, heads=2, key=8, value=8, dtype=f32} sites=(0,)
        %0: f32[P0, 64, 2, 8], %1: f32[P0, 64, 2, 8] = cache_write(k, v, key_pool.0, value_pool.0, query_start, context_len, block_table.0, c, s) {rotary=6}
        %2: f32[T, 4, 8] = paged_attention(q, %0, %1, query_start, context_len, block_table.0) {scale=0.5, window=8, softcap=20.0}
        output %2
        """,
    )


def test_sinks_stay_an_operand() -> None:
    check_lowered(
        f"{HEAD}%0: f32[T, 4, 8] = attention(q, k, v, @sinks) {{scale=0.5, sinks=True}}\noutput %0",
        """
        graph main: QUANTIZED
        input q: f32[T, 4, 8]
        input k: f32[T, 2, 8]
        input v: f32[T, 2, 8]
        input c: f32[T, 3]
        input s: f32[T, 3]
        input query_start: i32[S1] as query_start
        input context_len: i32[S] as context_len
        input block_table.0: i32[S, B] as table(0)
        input key_pool.0: f32[P0, 64, 2, 8] as state(0, key_pool)
        input value_pool.0: f32[P0, 64, 2, 8] as state(0, value_pool)
        group 0: paged {window=0, heads=2, key=8, value=8, dtype=f32} sites=(0,)
        const @sinks: f32[4] = @sinks:f32
        %0: f32[P0, 64, 2, 8], %1: f32[P0, 64, 2, 8] = cache_write(k, v, key_pool.0, value_pool.0, query_start, context_len, block_table.0)
        %2: f32[T, 4, 8] = paged_attention(q, %0, %1, query_start, context_len, block_table.0, @sinks) {scale=0.5, sinks=True}
        output %2
        """,
    )


def test_sites_that_see_alike_share_a_block_table() -> None:
    """Two groups, full and sliding; pools are numbered in the order of the sites."""
    lines = [
        f"%{i}: f32[T, 4, 8] = attention({q}, k, v) {{scale={i + 1}.0, window={w}}}"
        for i, (q, w) in enumerate([("q", 8), ("%0", 0), ("%1", 8)])
    ]
    # Other keys each: sites that read the same keys and values share pools (below).
    lines[1] = lines[1].replace("k, v", "v, k")
    lines[2] = lines[2].replace("k, v", "v, v")
    graph = parse(HEAD + "\n".join(lines) + "\noutput %2")
    assert lower(graph)
    geometry = {"heads": 2, "key": 8, "value": 8, "dtype": DType.F32}
    assert graph.groups == [
        StateGroup("0", "paged", KeyValueGeometry(window=8, **geometry), sites=[0, 2]),
        StateGroup("1", "paged", KeyValueGeometry(window=0, **geometry), sites=[1]),
    ]
    names = [v.name for v in graph.inputs if v.name.startswith(("block", "key"))]
    assert names == ["block_table.0", "key_pool.0", "block_table.1", "key_pool.1", "key_pool.2"]


@pytest.mark.parametrize(("window", "writes"), [(0, 1), (8, 2)])
def test_shared_keys_are_stored_once(window: int, writes: int) -> None:
    """Sites that read the same keys and values share pools, if they see the same."""
    graph = parse(
        f"{HEAD}%0: f32[T, 4, 8] = attention(q, k, v) {{scale=0.5}}\n"
        f"%1: f32[T, 4, 8] = attention(%0, k, v) {{scale=0.5, window={window}}}\noutput %1"
    )
    assert lower(graph)
    assert str(graph).count("cache_write") == writes


def test_rotated_keys_with_another_reader_are_rotated_once() -> None:
    graph = parse(
        f"{HEAD}{ROTATED}%1: f32[T, 4, 8] = attention(q, %0, v) {{scale=0.5}}\n"
        "%2: f32[T, 2, 8] = neg(%0)\noutput %1\noutput %2"
    )
    assert lower(graph)
    assert [n.op.mnemonic for n in graph.nodes].count("rotary") == 1
    assert "rotary=6" not in str(graph)


def test_no_attention_no_change() -> None:
    check_unchanged(lower, parse(f"{HEAD}output q"))


LATENTS = """
graph main: QUANTIZED
input q: f32[T, 4, 8]
input c: f32[T, 8]
input q_rope: f32[T, 4, 6]
input k_rope: f32[T, 1, 6]
input a: f32[T, 3]
input s: f32[T, 3]
const @sinks: f32[4] = @sinks:f32
"""


def test_latents_and_what_is_rotated_beside_them() -> None:
    check_lowered(
        f"""{LATENTS}%0: f32[T, 4, 6] = rotary(q_rope, a, s) {{dim=6}}
%1: f32[T, 1, 6] = rotary(k_rope, a, s) {{dim=6}}
%2: f32[T, 4, 8] = latent_attention(q, c, %0, %1, @sinks) {{scale=0.5, window=8, sinks=True, rope=True}}
output %2""",
        """
        graph main: QUANTIZED
        input q: f32[T, 4, 8]
        input c: f32[T, 8]
        input q_rope: f32[T, 4, 6]
        input k_rope: f32[T, 1, 6]
        input a: f32[T, 3]
        input s: f32[T, 3]
        input query_start: i32[S1] as query_start
        input context_len: i32[S] as context_len
        input block_table.0: i32[S, B] as table(0)
        input latent_pool.0: f32[P0, 64, 14] as state(0, latent_pool)
        group 0: latent {window=8, latent=8, rope=6, dtype=f32} sites=(0,)
        const @sinks: f32[4] = @sinks:f32
        %0: f32[P0, 64, 14] = latent_write(latent_pool.0, c, k_rope, query_start, context_len, block_table.0, a, s) {rope=True, rotary=6}
        %1: f32[T, 4, 8] = paged_latent_attention(q, q_rope, %0, query_start, context_len, block_table.0, @sinks, a, s) {scale=0.5, window=8, sinks=True, rope=True, rotary=6}
        output %1
        """,
    )


def test_latents_alone() -> None:
    """Two attentions to the same latents write them once; keys and values are another group."""
    graph = parse(
        f"""{LATENTS}%0: f32[T, 4, 8] = latent_attention(q, c) {{scale=0.5}}
%1: f32[T, 4, 8] = latent_attention(%0, c) {{scale=0.25}}
%2: f32[T, 4, 8] = attention(%1, q, q) {{scale=0.5}}
output %2"""
    )
    assert lower(graph)
    verify(graph)
    assert str(graph).count("latent_write(") == 1
    assert {group.kind for group in graph.groups} == {"latent", "paged"}
    assert "paged_latent_attention(q, %0, query_start, context_len, block_table.1)" in str(graph)
