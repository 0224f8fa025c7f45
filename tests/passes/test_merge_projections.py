"""Linear layers of one input become one."""

import pytest
from llmc.passes.merge_projections import merge_projections
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """
graph main: MODEL
input x: f32[T, 6]
const @q: f32[8, 6] = @q:f32
const @k: f32[4, 6] = @k:f32
const @qb: f32[8] = @qb:f32
const @kb: f32[4] = @kb:f32
"""


def test_weights_are_concatenated_and_results_sliced() -> None:
    check(
        merge_projections,
        f"{HEAD}%0: f32[T, 8] = linear(x, @q)    # attn.q\n%1: f32[T, 8] = silu(%0)\n"
        "%2: f32[T, 4] = linear(x, @k)    # attn.k\noutput %1\noutput %2",
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @q|k: f32[12, 6] = concat(@q:f32, @k:f32, 0)
        %0: f32[T, 12] = linear(x, @q|k)    # attn.q
        %1: f32[T, 4] = slice(%0) {dim=-1, start=8, stop=12}    # attn.k
        %2: f32[T, 8] = slice(%0) {dim=-1, start=0, stop=8}    # attn.q
        %3: f32[T, 8] = silu(%2)
        output %3
        output %1
        """,
    )


def test_biases_go_along() -> None:
    check(
        merge_projections,
        f"{HEAD}%0: f32[T, 8] = linear(x, @q, @qb) {{bias=True}}\n"
        "%1: f32[T, 4] = linear(x, @k, @kb) {bias=True}\noutput %0\noutput %1",
        """
        graph main: MODEL
        input x: f32[T, 6]
        const @q|k: f32[12, 6] = concat(@q:f32, @k:f32, 0)
        const @qb|kb: f32[12] = concat(@qb:f32, @kb:f32, 0)
        %0: f32[T, 12] = linear(x, @q|k, @qb|kb) {bias=True}
        %1: f32[T, 4] = slice(%0) {dim=-1, start=8, stop=12}
        %2: f32[T, 8] = slice(%0) {dim=-1, start=0, stop=8}
        output %2
        output %1
        """,
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("linear(x, @q)", "linear(y, @k)"),
        ("linear(x, @q)", "linear(x, @k, @kb) {bias=True}"),
        ("linear(x, @q)", 'linear(x, @k) {act="silu"}'),
        ("linear(x, @q)", "linear(x, shared)"),
    ],
)
def test_what_stays_apart(first: str, second: str) -> None:
    """Another input, one bias of two, an epilogue, a weight that is no constant."""
    check_declined(
        merge_projections,
        f"{HEAD}input y: f32[T, 6]\ninput shared: f32[4, 6]\n%0: f32[T, 8] = {first}\n"
        f"%1: f32[T, 4] = {second}\noutput %0\noutput %1",
    )


def test_a_weight_with_another_reader_stays_apart() -> None:
    """A tied table would be stored twice."""
    check_declined(
        merge_projections,
        f"{HEAD}input ids: i32[T]\n%0: f32[T, 6] = embedding(@q, ids)\n"
        "%1: f32[T, 8] = linear(x, @q)\n%2: f32[T, 4] = linear(x, @k)\n"
        "output %0\noutput %1\noutput %2",
    )
