"""Heads of keys and values that a model repeats for its queries are kept once."""

import pytest
from llmc.passes.share_heads import share_heads
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = """graph main: MODEL
input q: f32[T, 6, 8]
input k: f32[T, 2, 1, 8]
input v: f32[T, 2, 1, 5]
input cos: f32[T, 4]
input sin: f32[T, 4]
"""
REPEATED = """%0: f32[T, 2, 3, 8] = expand(k) {shape=(T, 2, 3, 8)}
%1: f32[T, 6, 8] = reshape(%0) {shape=(T, 6, 8)}
%2: f32[T, 2, 3, 5] = expand(v) {shape=(T, 2, 3, 5)}
%3: f32[T, 6, 5] = reshape(%2) {shape=(T, 6, 5)}
"""


def test_keys_and_values() -> None:
    check(
        share_heads,
        f"{HEAD}{REPEATED}%4: f32[T, 6, 5] = attention(q, %1, %3) {{scale=0.5}}\noutput %4",
        f"""{HEAD}%0: f32[T, 2, 8] = reshape(k) {{shape=(T, 2, 8)}}
        %1: f32[T, 2, 5] = reshape(v) {{shape=(T, 2, 5)}}
        %2: f32[T, 6, 5] = attention(q, %0, %1) {{scale=0.5}}
        output %2
        """,
    )


def test_rotation_comes_after() -> None:
    check(
        share_heads,
        f"""{HEAD}{REPEATED}%4: f32[T, 6, 8] = rotary(%1, cos, sin) {{dim=8}}
        %5: f32[T, 6, 5] = attention(q, %4, %3) {{scale=0.5, window=3}}
        output %5
        """,
        f"""{HEAD}%0: f32[T, 2, 8] = reshape(k) {{shape=(T, 2, 8)}}
        %1: f32[T, 2, 8] = rotary(%0, cos, sin) {{dim=8}}
        %2: f32[T, 2, 5] = reshape(v) {{shape=(T, 2, 5)}}
        %3: f32[T, 6, 5] = attention(q, %1, %2) {{scale=0.5, window=3}}
        output %3
        """,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reshape(%2) {shape=(T, 6, 5)}", "reshape(w) {shape=(T, 6, 5)}"),
        (
            "%0: f32[T, 2, 3, 8] = expand(k) {shape=(T, 2, 3, 8)}",
            "%0: f32[T, 2, 3, 8] = expand(u) {shape=(T, 2, 3, 8)}",
        ),
    ],
    ids=["values of their own", "one head for both groups"],
)
def test_what_isn_t_repeated_by_groups_stays(old: str, new: str) -> None:
    head = f"{HEAD}input w: f32[T, 30]\ninput u: f32[T, 1, 1, 8]\n"
    text = REPEATED.replace(old, new)
    if "%2)" not in text:  # numbers must stay in order
        text = text.replace("%2: f32[T, 2, 3, 5] = expand(v) {shape=(T, 2, 3, 5)}\n", "").replace(
            "%3:", "%2:"
        )
    last = text.count("\n")
    end = f"%{last}: f32[T, 6, 5] = attention(q, %1, %{last - 1}) {{scale=0.5}}\noutput %{last}"
    check_declined(share_heads, head + text + end)
