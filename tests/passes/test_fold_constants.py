"""Constant subgraphs become recipes; no bytes are read."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.passes.fold_constants import fold_constants
from llmc.weights.recipes import Apply
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast


def test_structure_that_recipes_know_stays_structured() -> None:
    """Sums, products, transposes, slices and concatenations can be evaluated row by row."""
    check(
        fold_constants,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @w: f32[4] = @w:f32
        const @m: f32[4, 6] = @m:f32
        %0: f32[4] = add(@w, 1.0)    # norm
        %1: f32[6, 4] = permute(@m) {dims=(-1, -2)}
        %2: f32[2, 4] = slice(%1) {dim=-2, start=1, stop=3}
        %3: f32[4, 4] = concat(%2, %2) {dim=-2}
        %4: f32[T, 4] = mul(x, %0)
        %5: f32[T, 4] = linear(%4, %3)
        output %5
        """,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @w: f32[4] = add(@w:f32, 1.0)
        const @concat: f32[4, 4] = concat(slice(permute(@m:f32, [1, 0]), 0, 1, 3), slice(permute(@m:f32, [1, 0]), 0, 1, 3), 0)
        %0: f32[T, 4] = mul(x, @w)
        %1: f32[T, 4] = linear(%0, @concat)
        output %1
        """,
    )


def test_anything_else_is_applied_when_the_artifact_is_written() -> None:
    """An op without a recipe of its own keeps its reference."""
    graph = check(
        fold_constants,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @a: f32[4] = @a:f32
        %0: f32[4] = exp(@a)    # layers.0.mixer
        %1: f32[4] = neg(%0)    # layers.0.mixer
        %2: f32[T, 4] = mul(x, %1)
        output %2
        """,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @a: f32[4] = apply(apply(@a:f32, Unary(fn='exp'), f32[4], 0), Unary(fn='neg'), f32[4], 0)
        %0: f32[T, 4] = mul(x, @a)
        output %0
        """,
    )
    (constant,) = graph.constants()
    assert isinstance(constant.recipe, Apply)


def test_sources_without_operands_are_constants_too() -> None:
    check(
        fold_constants,
        """
        graph main: TRACED
        input x: f32[T, 4]
        %0: i64[4] = iota() {size=4}
        %1: f32[T, 4] = mul(x, %0)
        output %1
        """,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @iota: i64[4] = apply(Iota(size=4, dtype=<DType.I64: 'i64'>), [], i64[4], 0)
        %0: f32[T, 4] = mul(x, @iota)
        output %0
        """,
    )


def test_what_depends_on_tokens_stays() -> None:
    """Also a constant that is spread over the tokens: its shape isn't known."""
    check_declined(
        fold_constants,
        """
        graph main: TRACED
        input x: f32[T, 4]
        const @w: f32[4] = @w:f32
        %0: f32[T, 4] = expand(@w) {shape=(T, 4)}
        %1: f32[T, 4] = mul(x, %0)
        output %1
        """,
    )
