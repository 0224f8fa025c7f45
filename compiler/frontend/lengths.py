"""Numbers that grow with the number of tokens: bounds of slices and ranges, beside the dimensions.

In: a size of the trace, as torch's shape analysis knows it. Out: an int, a `Sym` (which a dimension
may be), or a `Length`, which only the bound of a slice or a range may be.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from ...ir.types import Sym, T


@dataclass(frozen=True)
class Length:
    """`scale * T + offset`, with `offset` other than 0."""

    scale: int
    offset: int


Number = int | Sym | Length


def number_of(scale: int, offset: int) -> Number:
    """`scale * T + offset` in its simplest form."""
    if scale == 0:
        return offset
    return Sym(T.name, scale) if offset == 0 else Length(scale, offset)


class ChangesAt(Exception):
    """A number that grows otherwise for more than `tokens` tokens than for fewer."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"a size that is computed otherwise for more than {tokens} tokens")
        self.tokens = tokens


def length_of(expr: Any, symbol: Any, most: int) -> Number | None:
    """What the sympy expression is, if it is linear in `symbol`, the tokens of the trace: 1 to
    `most` of them. The greater of two numbers is the one that is so for any of these.

    Raises:
        ChangesAt: it is one of them for few tokens, and another for many.
    """
    if expr.is_number:
        return int(expr)
    if type(expr).__name__ in ("Max", "Min"):
        numbers = [length_of(e, symbol, most) for e in expr.args]
        known = [n for n in numbers if n is not None]
        return _extreme(known, most, type(expr).__name__) if len(known) == len(numbers) else None
    scale = expr.coeff(symbol, 1)
    offset = (expr - scale * symbol).expand()
    whole = scale.is_integer and scale.is_number and offset.is_integer and offset.is_number
    return number_of(int(scale), int(offset)) if whole else None


def _extreme(numbers: list[Number], most: int, kind: str) -> Number:
    """The one of `numbers` that is their `Max` or `Min` for any number of tokens up to `most`."""
    sign = 1 if kind == "Max" else -1

    def leads(i: int, tokens: int) -> bool:
        values = [sign * (scale * tokens + offset) for scale, offset in map(parts_of, numbers)]
        return values[i] == max(values)

    def holds(i: int) -> int:
        """For how many tokens, from 1 on, it is number `i`."""
        if not leads(i, 1):  # where it leads is one piece: the search below starts inside of it
            return 0
        return bisect_left(range(most + 1), True, 1, key=lambda tokens: not leads(i, tokens)) - 1

    best = max(range(len(numbers)), key=holds)
    if holds(best) < most:
        raise ChangesAt(holds(best))
    return numbers[best]


def parts_of(number: Number) -> tuple[int, int]:
    """(scale, offset) of a number."""
    if isinstance(number, Length):
        return number.scale, number.offset
    return (number.scale, 0) if isinstance(number, Sym) else (0, number)


def minus(a: Number, b: Number) -> Number:
    """`a - b`."""
    (p, q), (r, s) = parts_of(a), parts_of(b)
    return number_of(p - r, q - s)
