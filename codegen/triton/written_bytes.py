"""Which launch wrote each byte of the arena last.

In: ranges of bytes, as launches write them. Out: for a range that is read, what is wrong with what
it holds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes [start, end) of what `writer` wrote, which reached to `reached`."""

    start: int
    end: int
    reached: int
    writer: str


class WrittenBytes:
    """Pieces in order, none of which overlap."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []

    def write(self, span: Span, writer: str) -> None:
        """`writer` writes `span`; pieces of what was there may remain at both sides."""
        first, last = self._range(span)
        touched = self._pieces[first:last]
        new = [_Piece(span.start, span.end, span.end, writer)]
        if touched and touched[0].start < span.start:
            head = touched[0]
            new.insert(0, _Piece(head.start, span.start, head.reached, head.writer))
        if touched and touched[-1].end > span.end:
            tail = touched[-1]
            new.append(_Piece(span.end, tail.end, tail.reached, tail.writer))
        self._pieces[first:last] = new
        self._starts[first:last] = [piece.start for piece in new]

    def unlike(self, span: Span) -> str | None:
        """What is wrong with reading `span`: bytes that nobody wrote, or that belong to another
        value, since what was written there ends elsewhere. None: nothing."""
        at = span.start
        first, last = self._range(span)
        for piece in self._pieces[first:last]:
            if piece.start > at:
                break
            if piece.reached != span.end:
                return f"where {piece.writer} wrote a value that ends at byte {piece.reached}"
            at = piece.end
        return None if at >= span.end else f"of which byte {at} was not written in this step"

    def _range(self, span: Span) -> tuple[int, int]:
        """The pieces that overlap a span: [first, last)."""
        first = bisect_right(self._starts, span.start) - 1
        if first < 0 or self._pieces[first].end <= span.start:
            first += 1
        return first, bisect_left(self._starts, span.end)
