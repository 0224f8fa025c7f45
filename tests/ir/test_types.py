"""Dimensions and tensor types: symbols carry a factor, never a sum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc.ir.types import (  # fmt: skip
    DType,
    R,
    S,
    Sym,
    T,
    TensorType,
    bind_dim,
    broadcast_shapes,
    divide,
    numel,
)

pytestmark = pytest.mark.fast

SIZES = st.integers(1, 64)
DIMS = st.one_of(SIZES, st.builds(Sym, st.sampled_from(["T", "S"]), SIZES))


@given(st.lists(SIZES, max_size=4), SIZES, st.integers(1, 9))
def test_numel_binds_as_the_product_does(sizes: list[int], scale: int, tokens: int) -> None:
    """Counting elements before or after T is known gives the same number."""
    shape = (*sizes, Sym("T", scale))
    product = scale * tokens
    for size in sizes:
        product *= size
    assert bind_dim(numel(shape), {"T": tokens}) == product


@given(DIMS, SIZES)
def test_divide_undoes_numel(dim: Sym | int, by: int) -> None:
    """`numel` of a dimension and a factor, divided by the factor, is the dimension."""
    assert divide(numel((dim, by)), by) == dim


def test_divide_by_the_symbol_leaves_a_number() -> None:
    assert divide(Sym("T", 6), T) == 6
    assert divide(Sym("T", 6), Sym("T", 2)) == 3


@pytest.mark.parametrize(
    ("dim", "by"), [(7, 2), (Sym("T", 3), 2), (6, T), (Sym("S", 2), T), (4, 0)]
)
def test_divide_refuses_what_leaves_a_rest(dim: Sym | int, by: Sym | int) -> None:
    with pytest.raises(ValueError, match="not divisible"):
        divide(dim, by)


def test_two_symbols_have_no_product() -> None:
    """Tokens times sequences is no dimension: such a shape would mix them."""
    with pytest.raises(ValueError, match="more than one"):
        numel((T, S))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(T, 4), (4,)], (T, 4)),
        ([(T, 1), (1, 8)], (T, 8)),
        ([(1,), (Sym("T", 2), 1)], (Sym("T", 2), 1)),
        ([(), (3, 1)], (3, 1)),
        ([(R, 5), (R, 5), (1, 1)], (R, 5)),
    ],
)
def test_broadcast(shapes: list[tuple], expected: tuple) -> None:
    assert broadcast_shapes(*shapes) == expected


@pytest.mark.parametrize(
    "shapes", [[(T,), (4,)], [(T,), (S,)], [(T,), (Sym("T", 2),)], [(2,), (3,)]]
)
def test_broadcast_refuses(shapes: list[tuple]) -> None:
    """A symbol is never 1, and equals only itself."""
    with pytest.raises(ValueError, match="broadcast"):
        broadcast_shapes(*shapes)


def test_text_of_types() -> None:
    assert str(TensorType(DType.BF16, (Sym("T", 2), 16))) == "bf16[2*T, 16]"
    assert str(TensorType(DType.F32, ())) == "f32[]"


def test_block_formats_have_no_item_size() -> None:
    assert DType.BF16.itemsize == 2
    with pytest.raises(KeyError):
        _ = DType.I4S.itemsize
