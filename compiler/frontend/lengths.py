"""Numbers that a trace computes of its number of tokens T.

A dimension of the IR is a number or a multiple of T. Model code computes others, and uses them to
say which tokens it means: `torch.arange(T + 2)[2:]` are positions, two further on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.types import Sym


@dataclass(frozen=True)
class Length:
    """A size that is no multiple of T: an expression of torch's shape analysis."""

    expression: Any
    tokens: Any

    def __str__(self) -> str:
        return str(self.expression)


def affine(number: Any) -> tuple[int, int] | None:
    """(scale, offset) of a number that is `scale * T + offset`; None for any other."""
    if type(number) is int:
        return 0, number
    if isinstance(number, Sym):
        return number.scale, 0
    if not isinstance(number, Length):
        return None
    offset = number.expression.subs(number.tokens, 0)
    scale = number.expression.subs(number.tokens, 1) - offset
    rest = number.expression - scale * number.tokens - offset
    if not (offset.is_integer and offset.is_number and scale.is_integer and rest.expand() == 0):
        return None
    return int(scale), int(offset)


def tokens_from(start: Any, stop: Any) -> int | None:
    """The number of the first token if `start` to `stop` are as many as there are tokens, one for
    each: `start` itself. None if they are others.
    """
    first, end = affine(start), affine(stop)
    if first is None or end is None or first[0] != 0 or end != (1, first[1]):
        return None
    return first[1]
