"""Sizes of a trace as numbers that grow with its tokens."""

import pytest
import sympy
from llmc.compiler.frontend.lengths import ChangesAt, Length, length_of
from llmc.ir.types import Sym

pytestmark = pytest.mark.fast
S = sympy.Symbol("s", integer=True, positive=True)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (sympy.Integer(7), 7),
        (2 * S, Sym("T", 2)),
        (S - 1, Length(1, -1)),
        (sympy.Min(100, S), Sym("T")),
        (sympy.Max(100, S), 100),
        (sympy.Min(1, S), 1),
    ],
)
def test_what_a_size_is_for_up_to_72_tokens(expr: sympy.Expr, expected: object) -> None:
    assert length_of(expr, S, 72) == expected


@pytest.mark.parametrize("expr", [sympy.Min(16, S), sympy.Max(16, S)])
def test_what_changes_within_them(expr: sympy.Expr) -> None:
    """Also where the number that leads in the end doesn't in the beginning."""
    with pytest.raises(ChangesAt) as change:
        length_of(expr, S, 72)
    assert change.value.tokens == 16
