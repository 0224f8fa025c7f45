"""A value that is plain text between tags, and may itself hold those tags.

No quotes tell a tag of the value from the one that ends it, so what stands around it has to: tags
that open and close within the value are its own, and the closing tag is one behind which the call
goes on as calls do, with another parameter or its own end. If a call ends and something else than a
call or the end of the text follows, it is the end unless another one comes that fits better.
"""

import re
from dataclasses import dataclass
from typing import Literal

from .cursor import Cursor, Reading

Behind = Literal["sure", "likely", "unlikely"]
"""What stands behind a closing tag: the call or the text goes on or ends as expected, a call ends
before other text, or neither."""


_PATIENCE = 100
"""Tags that are looked at for a better end when one has been found that would do."""


@dataclass(frozen=True, slots=True)
class Tags:
    """`opening` and `closing` stand around a value; `key` begins the next parameter, `end` the end
    of a call, `section_end` (or "") that of all calls, and `marks` another call."""

    opening: str
    closing: str
    key: str
    end: str
    section_end: str
    marks: tuple[str, ...]


@dataclass(slots=True)
class _Places:
    """Where closing tags begin, should none be sure."""

    likely: int | None = None
    """The last one outside of inner tags behind which a call ends."""
    unbalanced: int | None = None
    """The first one that would do if inner tags didn't count."""
    last: int | None = None

    @property
    def best(self) -> int | None:
        for place in (self.likely, self.unbalanced, self.last):
            if place is not None:
                return place
        return None


def read_value(cursor: Cursor, tags: Tags) -> Reading[str | None]:
    """The value that begins here, with a step behind its closing tag; None if it has none."""
    begin, places = cursor.at, _Places()
    end = yield from _sure_end(cursor, tags, places)
    if end is None:
        end = places.best
    if end is None:
        cursor.at = len(cursor.buffer)
        return None
    cursor.at = end + len(tags.closing)
    return cursor.buffer[begin:end]


def _sure_end(cursor: Cursor, tags: Tags, places: _Places) -> Reading[int | None]:
    """Where the closing tag begins that surely is the value's; None if the text, or patience, ends
    before."""
    either = re.compile(f"({re.escape(tags.closing)})|{re.escape(tags.opening)}")
    longest, depth, left = max(len(tags.closing), len(tags.opening)), 0, _PATIENCE
    while left:
        match = either.search(cursor.buffer, cursor.at)
        if match is None:
            cursor.at = max(cursor.at, len(cursor.buffer) - longest + 1)
            if not (yield from cursor.more()):
                return None
            continue
        cursor.at = match.end()
        left -= places.unbalanced is not None
        if not match[1]:
            depth += 1
            continue
        behind = yield from _behind(cursor, tags)
        cursor.at = match.end()
        places.last = match.start()
        if behind != "unlikely":
            if depth == 0:
                places.likely = match.start()
            if places.unbalanced is None:
                places.unbalanced = match.start()
        if depth == 0 and behind == "sure":
            return match.start()
        depth = max(0, depth - 1)
    return None


def _behind(cursor: Cursor, tags: Tags) -> Reading[Behind]:
    """What stands behind a closing tag. Moves the cursor."""
    yield from cursor.space()
    found = yield from cursor.literal(tags.key, tags.end)
    if found is None:
        return "unlikely"
    if found == tags.key:
        return "sure"
    yield from cursor.space()
    if tags.section_end:
        yield from cursor.literal(tags.section_end)
        yield from cursor.space()
    if (yield from cursor.peek()) == "" or (yield from cursor.stands(*tags.marks)):
        return "sure"
    return "likely"
