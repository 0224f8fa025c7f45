"""What computes nothing goes; equal things become one."""

import pytest
from llmc.passes.canonicalize import canonicalize
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast


def one(line: str, type: str = "f32[T, 4]") -> str:
    return f"graph main: TRACED\ninput x: {type}\n{line}\noutput %0"


@pytest.mark.parametrize(
    "line",
    [
        "%0: f32[T, 4] = mul(x, 1.0)", "%0: f32[T, 4] = mul(1.0, x)",
        "%0: f32[T, 4] = add(x, 0.0)", "%0: f32[T, 4] = sub(x, 0.0)",
        "%0: f32[T, 4] = div(x, 1.0)", "%0: f32[T, 4] = cast(x) {dtype=f32}",
        "%0: f32[T, 4] = reshape(x) {shape=(T, 4)}", "%0: f32[T, 4] = expand(x) {shape=(T, 4)}",
        "%0: f32[T, 4] = permute(x) {dims=(-2, -1)}", "%0: f32[T, 4] = concat(x) {dim=-1}",
        "%0: f32[T, 4] = slice(x) {dim=-1, start=0, stop=4}",
    ],
)  # fmt: skip
def test_identities_go(line: str) -> None:
    check(canonicalize, one(line), "graph main: TRACED\ninput x: f32[T, 4]\noutput x")


@pytest.mark.parametrize(
    "line",
    [
        "%0: f32[T, 4] = sub(0.0, x)", "%0: f32[T, 4] = div(1.0, x)",
        "%0: f32[T, 4] = mul(x, 2.0)", "%0: f32[T, 3] = slice(x) {dim=-1, start=0, stop=3}",
        "%0: f32[T, 2] = slice(x) {dim=-1, start=0, stop=4, step=2}",
        "%0: f32[4, T] = permute(x) {dims=(-1, -2)}",
    ],
)  # fmt: skip
def test_what_computes_something_stays(line: str) -> None:
    check_declined(canonicalize, one(line))


@pytest.mark.parametrize(("fn", "fill"), [("mul", "1.0"), ("add", "0.0"), ("sub", "0.0")])
def test_a_tensor_full_of_a_neutral_number_goes(fn: str, fill: str) -> None:
    """`ones_like(x) * x`: the length of the unit numbers that `torch.polar` makes."""
    lines = f"%0: f32[T, 4] = full({fill}) {{shape=(T, 4)}}\n%1: f32[T, 4] = {fn}(x, %0)"
    before = one(lines).replace("output %0", "output %1")
    check(canonicalize, before, "graph main: TRACED\ninput x: f32[T, 4]\noutput x")


def test_a_tensor_of_ones_that_widens_the_shape_stays() -> None:
    lines = "%0: f32[3] = full(1.0) {shape=(3,)}\n%1: f32[T, 3] = mul(x, %0)"
    before = one(lines, "f32[T, 1]").replace("output %0", "output %1")
    check_declined(canonicalize, before)


def test_a_neutral_number_that_widens_the_type_stays() -> None:
    """An integer plus 0.0 is a float."""
    check_declined(canonicalize, one("%0: f32[T] = add(x, 0.0)", "i64[T]"))


def test_chains_of_reshapes_and_permutes_collapse() -> None:
    """Two reshapes are the last one; two permutes are their product, here the identity."""
    check(
        canonicalize,
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        %0: f32[T, 12] = reshape(x) {shape=(T, 12)}
        %1: f32[T, 4, 3] = reshape(%0) {shape=(T, 4, 3)}
        %2: f32[2, T, 6] = permute(x) {dims=(-2, -3, -1)}
        %3: f32[T, 2, 6] = permute(%2) {dims=(-2, -3, -1)}
        output %1
        output %3
        """,
        """
        graph main: TRACED
        input x: f32[T, 2, 6]
        %0: f32[T, 4, 3] = reshape(x) {shape=(T, 4, 3)}
        output %0
        output x
        """,
    )


def test_a_permute_of_unit_dimensions_is_a_reshape() -> None:
    check(
        canonicalize,
        """
        graph main: TRACED
        input x: f32[T, 1, 6]
        %0: f32[1, T, 6] = permute(x) {dims=(-2, -3, -1)}
        output %0
        """,
        """
        graph main: TRACED
        input x: f32[T, 1, 6]
        %0: f32[1, T, 6] = reshape(x) {shape=(1, T, 6)}
        output %0
        """,
    )


def test_a_slice_that_is_one_part_of_a_concatenation() -> None:
    """So memory that is filled part by part disappears; a slice across parts stays."""
    check(
        canonicalize,
        """
        graph main: TRACED
        input x: f32[T, 4]
        input y: f32[T, 6]
        %0: f32[T, 10] = concat(x, y) {dim=-1}
        %1: f32[T, 6] = slice(%0) {dim=-1, start=4, stop=10}
        %2: f32[T, 4] = slice(%0) {dim=-1, start=3, stop=7}
        output %1
        output %2
        """,
        """
        graph main: TRACED
        input x: f32[T, 4]
        input y: f32[T, 6]
        %0: f32[T, 10] = concat(x, y) {dim=-1}
        %1: f32[T, 4] = slice(%0) {dim=-1, start=3, stop=7}
        output y
        output %1
        """,
    )


def test_equal_nodes_are_merged_and_dead_ones_removed() -> None:
    """Same op and operands (numbers by value) are one; what nobody reads goes."""
    check(
        canonicalize,
        """
        graph main: TRACED
        input x: f32[T, 4]
        %0: f32[T, 4] = mul(x, 2.0)    # layers.0
        %1: f32[T, 4] = mul(x, 2.0)    # layers.1
        %2: f32[T, 4] = exp(%1)
        %3: f32[T, 2], %4: i64[T, 2] = top_k(%0) {k=2}
        %5: f32[T, 2], %6: i64[T, 2] = top_k(%1) {k=2}
        output %0
        output %3
        output %6
        """,
        """
        graph main: TRACED
        input x: f32[T, 4]
        %0: f32[T, 4] = mul(x, 2.0)    # layers.0
        %1: f32[T, 2], %2: i64[T, 2] = top_k(%0) {k=2}
        output %0
        output %1
        output %2
        """,
    )
