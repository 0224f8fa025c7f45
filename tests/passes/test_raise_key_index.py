"""Choices of keys out of arithmetic, and how they are lowered."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.base.errors import LlmcError
from llmc.ir.parser import parse
from llmc.ir.states import INDEX, LATENT, PAGED
from llmc.ir.types import DType
from llmc.passes.lower_state import lower_state
from llmc.passes.raise_key_index import raise_key_index
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: TRACED
input q: f32[T, 3, 8]
input k: f32[T, 8]
input w: f32[T, 3]
"""
USUAL = """
%0: f32[8, T] = permute(k) {dims=(-1, -2)}
%1: f32[1, 8, T] = reshape(%0) {shape=(1, 8, T)}
%2: f32[T, 3, T] = mat_mul(q, %1)
%3: f32[T, 3, T] = mul(%2, 0.25)
%4: f32[T, 3, T] = relu(%3)
%5: f32[T, 1, 3] = reshape(w) {shape=(T, 1, 3)}
%6: f32[T, 1, T] = mat_mul(%5, %4)
%7: f32[T, T] = reshape(%6) {shape=(T, T)}
%8: f32[T, T] = causal_mask() {shape=(T, T)}
%9: f32[T, T] = add(%7, %8)
%10: i64[T, 4] = top_tokens(%9) {k=4}
%11: i32[T, 4] = cast(%10) {dtype=i32}
"""


def test_the_usual_form() -> None:
    """Compared by what attention makes of the choice: before, the model's also names tokens that the
    mask hides from attention, where a token sees fewer than four."""
    attended = "%12: f32[T, 2, 8] = selected_attention(a, a, a, %11) {scale=0.5}\noutput %12"
    check(
        raise_key_index,
        f"{HEAD}input a: f32[T, 2, 8]\n{USUAL}{attended}",
        """
        graph main: TRACED
        input q: f32[T, 3, 8]
        input k: f32[T, 8]
        input w: f32[T, 3]
        input a: f32[T, 2, 8]
        %0: f32[8, T] = permute(k) {dims=(-1, -2)}
        %1: f32[1, 8, T] = reshape(%0) {shape=(1, 8, T)}
        %2: f32[T, 1, 3] = reshape(w) {shape=(T, 1, 3)}
        %3: f32[1, T, 8] = permute(%1) {dims=(-3, -1, -2)}
        %4: f32[T, 8] = reshape(%3) {shape=(T, 8)}
        %5: f32[T, 3] = reshape(%2) {shape=(T, 3)}
        %6: i32[T, 4] = key_index(q, %4, %5) {topk=4, scale=0.25}
        %7: i64[T, 4] = cast(%6) {dtype=i64}
        %8: i32[T, 4] = cast(%7) {dtype=i32}
        %9: f32[T, 2, 8] = selected_attention(a, a, a, %8) {scale=0.5}
        output %9
        """,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("relu(%3)", "neg(%3)"),
        ("mul(%2, 0.25)", "mul(%2, -0.25)"),
        ("add(%7, %8)", "sub(%7, %8)"),
        ("{shape=(T, T)}\n%9", "{shape=(T, T), window=3}\n%9"),
    ],
)
def test_what_is_no_index(old: str, new: str) -> None:
    """No cut at zero, scores that scaling turns around, no mask, a window."""
    assert old in USUAL
    check_declined(raise_key_index, f"{HEAD}{USUAL.replace(old, new)}output %11")


LATENTS = """
graph main: QUANTIZED
input q: f32[T, 3, 8]
input k: f32[T, 8]
input w: f32[T, 3]
input a: f32[T, 2, 6]
input c: f32[T, 6]
%0: i32[T, 4] = key_index(q, k, w) {topk=4, scale=0.25}
%1: f32[T, 2, 6] = latent_attention(a, c, %0) {scale=0.5, selected=True}
output %1
"""


@pytest.mark.parametrize(("cache", "kept"), [(DType.F32, "f32"), (DType.I8, "bf16")])
def test_the_index_has_keys_of_its_own(cache: DType, kept: str) -> None:
    """Which are no codes, and lie in a group that holds no values."""
    graph = parse(LATENTS)
    assert lower_state(graph, (PAGED, LATENT, INDEX), cache)
    assert [group.kind for group in graph.groups] == ["latent", "index"]
    text = str(graph)
    assert f"input index_pool.1: {kept}[P1, 64, 8] as state(1, index_pool)" in text
    assert "paged_key_index(q, w, %0, query_start, context_len, block_table.1)" in text
    group = INDEX.cache_group(graph.groups[1], 64)
    assert group.value_dim == 0
    assert group.bytes_per_block == 64 * 16 * (4 if kept == "f32" else 2)


def test_targets_without_an_index_refuse_it_by_name() -> None:
    with pytest.raises(LlmcError) as refused:
        lower_state(parse(LATENTS), (PAGED, LATENT), DType.F32)
    assert refused.value.id == "LLMC-E0401"
    assert "key_index" in refused.value.message
