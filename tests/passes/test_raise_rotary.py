"""Rotary embeddings from arithmetic, in the spellings that models use."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.ir.graph import Graph
from llmc.passes.canonicalize import canonicalize
from llmc.passes.raise_rotary import raise_partial_rotary, raise_rotary
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

TABLES = """
graph main: TRACED
input x: f32[T, 2, 6]
input angle: f32[T, 3]
"""
DOUBLED = """\
%0: f32[T, 6] = concat(angle, angle) {dim=-1}
%1: f32[T, 6] = cos(%0)
%2: f32[T, 6] = sin(%0)
%3: f32[T, 1, 6] = reshape(%1) {shape=(T, 1, 6)}
%4: f32[T, 1, 6] = reshape(%2) {shape=(T, 1, 6)}
"""
HALVES = """\
%5: f32[T, 2, 6] = mul(x, %3)
%6: f32[T, 2, 3] = slice(x) {dim=-1, start=0, stop=3}
%7: f32[T, 2, 3] = slice(x) {dim=-1, start=3, stop=6}
%8: f32[T, 2, 3] = neg(%7)
%9: f32[T, 2, 6] = concat(%8, %6) {dim=-1}
%10: f32[T, 2, 6] = mul(%9, %4)
%11: f32[T, 2, 6] = add(%5, %10)
output %11
"""


def cleaned(graph: Graph) -> bool:
    """Raised and canonicalized, as in the pipeline, so that Expected holds no left-overs."""
    return raise_rotary(graph) | canonicalize(graph)


def test_rotated_halves() -> None:
    """x cos + rotate_half(x) sin: the doubled tables are taken back to their half."""
    check(
        cleaned,
        TABLES + DOUBLED + HALVES,
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        input angle: f32[T, 3]
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 2, 6] = rotary(x, %0, %1) {dim=6}
        output %2
        """,
    )


def test_heads_before_tokens_are_permuted_around() -> None:
    """Rotary works on [T, H, D]."""
    check(
        cleaned,
        (TABLES + DOUBLED + HALVES).replace("[T, 2, ", "[2, T, ").replace("[T, 1, 6]", "[1, T, 6]")
        .replace("(T, 1, 6)", "(1, T, 6)"),
        """
        graph main: TRACED
        input x: f32[2, T, 6]
        input angle: f32[T, 3]
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 2, 6] = permute(x) {dims=(-2, -3, -1)}
        %3: f32[T, 2, 6] = rotary(%2, %0, %1) {dim=6}
        %4: f32[2, T, 6] = permute(%3) {dims=(-2, -3, -1)}
        output %4
        """,
    )  # fmt: skip


def test_split_halves() -> None:
    """cat(x1 cos - x2 sin, x2 cos + x1 sin) with tables of half the width."""
    check(
        cleaned,
        f"""{TABLES}
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 1, 3] = reshape(%0) {{shape=(T, 1, 3)}}
        %3: f32[T, 1, 3] = reshape(%1) {{shape=(T, 1, 3)}}
        %4: f32[T, 2, 3] = slice(x) {{dim=-1, start=0, stop=3}}
        %5: f32[T, 2, 3] = slice(x) {{dim=-1, start=3, stop=6}}
        %6: f32[T, 2, 3] = mul(%4, %2)
        %7: f32[T, 2, 3] = mul(%5, %3)
        %8: f32[T, 2, 3] = sub(%6, %7)
        %9: f32[T, 2, 3] = mul(%5, %2)
        %10: f32[T, 2, 3] = mul(%4, %3)
        %11: f32[T, 2, 3] = add(%9, %10)
        %12: f32[T, 2, 6] = concat(%8, %11) {{dim=-1}}
        output %12
        """.replace("        ", ""),
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        input angle: f32[T, 3]
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 2, 6] = rotary(x, %0, %1) {dim=6}
        output %2
        """,
    )


def test_lanes_that_are_put_apart() -> None:
    """Even and odd elements are the pairs, and the result has the first of all pairs first."""
    check(
        cleaned,
        f"""{TABLES}
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 1, 3] = reshape(%0) {{shape=(T, 1, 3)}}
        %3: f32[T, 1, 3] = reshape(%1) {{shape=(T, 1, 3)}}
        %4: f32[T, 2, 3] = slice(x) {{dim=-1, start=0, stop=6, step=2}}
        %5: f32[T, 2, 3] = slice(x) {{dim=-1, start=1, stop=6, step=2}}
        %6: f32[T, 2, 3] = mul(%4, %2)
        %7: f32[T, 2, 3] = mul(%5, %3)
        %8: f32[T, 2, 3] = sub(%6, %7)
        %9: f32[T, 2, 3] = mul(%5, %2)
        %10: f32[T, 2, 3] = mul(%4, %3)
        %11: f32[T, 2, 3] = add(%9, %10)
        %12: f32[T, 2, 6] = concat(%8, %11) {{dim=-1}}
        output %12
        """.replace("        ", ""),
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        input angle: f32[T, 3]
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 2, 6] = rotary(x, %0, %1) {dim=6, interleaved=True}
        %3: f32[T, 2, 3] = slice(%2) {dim=-1, start=0, stop=6, step=2}
        %4: f32[T, 2, 3] = slice(%2) {dim=-1, start=1, stop=6, step=2}
        %5: f32[T, 2, 6] = concat(%3, %4) {dim=-1}
        output %5
        """,
    )


def test_interleaved_lanes() -> None:
    """Even and odd elements are the pairs; the tables repeat each angle."""
    check(
        cleaned,
        f"""{TABLES}
        %0: f32[T, 3, 1] = reshape(angle) {{shape=(T, 3, 1)}}
        %1: f32[T, 3, 2] = expand(%0) {{shape=(T, 3, 2)}}
        %2: f32[T, 1, 6] = reshape(%1) {{shape=(T, 1, 6)}}
        %3: f32[T, 1, 6] = cos(%2)
        %4: f32[T, 1, 6] = sin(%2)
        %5: f32[T, 2, 6] = mul(x, %3)
        %6: f32[T, 2, 3] = slice(x) {{dim=-1, start=1, stop=6, step=2}}
        %7: f32[T, 2, 3] = neg(%6)
        %8: f32[T, 2, 3, 1] = reshape(%7) {{shape=(T, 2, 3, 1)}}
        %9: f32[T, 2, 3] = slice(x) {{dim=-1, start=0, stop=6, step=2}}
        %10: f32[T, 2, 3, 1] = reshape(%9) {{shape=(T, 2, 3, 1)}}
        %11: f32[T, 2, 3, 2] = concat(%8, %10) {{dim=-1}}
        %12: f32[T, 2, 6] = reshape(%11) {{shape=(T, 2, 6)}}
        %13: f32[T, 2, 6] = mul(%12, %4)
        %14: f32[T, 2, 6] = add(%5, %13)
        output %14
        """.replace("        ", ""),
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        input angle: f32[T, 3]
        %0: f32[T, 1, 3] = reshape(angle) {shape=(T, 1, 3)}
        %1: f32[T, 1, 3] = cos(%0)
        %2: f32[T, 1, 3] = sin(%0)
        %3: f32[T, 3] = reshape(%1) {shape=(T, 3)}
        %4: f32[T, 3] = reshape(%2) {shape=(T, 3)}
        %5: f32[T, 2, 6] = rotary(x, %3, %4) {dim=6, interleaved=True}
        output %5
        """,
    )


PAIRS = """\
%0: f32[T, 3] = cos(angle)
%1: f32[T, 3] = sin(angle)
%2: f32[T, 1, 3] = reshape(%0) {shape=(T, 1, 3)}
%3: f32[T, 1, 3] = reshape(%1) {shape=(T, 1, 3)}
%4: f32[T, 2, 3] = slice(x) {dim=-1, start=0, stop=6, step=2}
%5: f32[T, 2, 3] = slice(x) {dim=-1, start=1, stop=6, step=2}
%6: f32[T, 2, 3] = mul(%4, %2)
%7: f32[T, 2, 3] = mul(%5, %3)
%8: f32[T, 2, 3] = sub(%6, %7)
%9: f32[T, 2, 3] = mul(%5, %2)
%10: f32[T, 2, 3] = mul(%4, %3)
%11: f32[T, 2, 3] = add(%9, %10)
%12: f32[T, 2, 3, 1] = reshape(%8) {shape=(T, 2, 3, 1)}
%13: f32[T, 2, 3, 1] = reshape(%11) {shape=(T, 2, 3, 1)}
%14: f32[T, 2, 3, 2] = concat(%12, %13) {dim=-1}
%15: f32[T, 2, 6] = reshape(%14) {shape=(T, 2, 6)}
output %15
"""


def test_products_of_complex_numbers() -> None:
    """Pairs times unit numbers, as the importer writes complex products."""
    check(
        cleaned,
        TABLES + PAIRS,
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        input angle: f32[T, 3]
        %0: f32[T, 3] = cos(angle)
        %1: f32[T, 3] = sin(angle)
        %2: f32[T, 2, 6] = rotary(x, %0, %1) {dim=6, interleaved=True}
        output %2
        """,
    )


def test_tables_whose_copies_differ_stay() -> None:
    """cat(f, g) with f not g: half a table would be wrong for the other half."""
    other = DOUBLED.replace("concat(angle, angle)", "concat(angle, other)")
    check_declined(raise_rotary, f"{TABLES}input other: f32[T, 3]\n{other}{HALVES}")


def test_unequal_parts_stay() -> None:
    """Slices that are no halves of the head."""
    uneven = HALVES.replace("start=0, stop=3", "start=0, stop=2").replace(
        "start=3, stop=6", "start=2, stop=6").replace(
        "f32[T, 2, 3] = slice(x) {dim=-1, start=0", "f32[T, 2, 2] = slice(x) {dim=-1, start=0").replace(
        "f32[T, 2, 3] = slice(x) {dim=-1, start=2", "f32[T, 2, 4] = slice(x) {dim=-1, start=2").replace(
        "%8: f32[T, 2, 3]", "%8: f32[T, 2, 4]")  # fmt: skip
    check_declined(raise_rotary, TABLES + DOUBLED + uneven)


PARTIAL = """
graph main: TRACED
input x: f32[T, 2, 8]
input c: f32[T, 3]
input s: f32[T, 3]
%0: f32[T, 2, 6] = slice(x) {dim=-1, start=0, stop=6}
%1: f32[T, 2, 2] = slice(x) {dim=-1, start=6, stop=8}
%2: f32[T, 2, 6] = rotary(%0, c, s) {dim=6}
%3: f32[T, 2, 8] = concat(%2, %1) {dim=-1}
output %3
"""


def test_a_rotated_first_part_is_a_partial_rotary() -> None:
    check(
        raise_partial_rotary,
        PARTIAL,
        """
        graph main: TRACED
        input x: f32[T, 2, 8]
        input c: f32[T, 3]
        input s: f32[T, 3]
        %0: f32[T, 2, 8] = rotary(x, c, s) {dim=6}
        output %0
        """,
    )


def test_parts_that_do_not_meet_stay() -> None:
    """The rest must begin where the rotation ends."""
    check_declined(raise_partial_rotary, PARTIAL.replace("start=6, stop=8", "start=5, stop=7"))
