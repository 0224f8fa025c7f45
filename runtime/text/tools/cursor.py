"""A place in a text that is still being written: parsers wait there until enough has come.

The methods are generators that yield when they need more text, so a parser reads top to bottom
(`yield from`) as if it had all of it, and does the same however the text comes in pieces. Nothing
recurses, and nothing already decided is looked at again.
"""

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
Emit = Callable[[str], object]

_SPACE = re.compile(r"\s*")
_STRUCTURE = re.compile(r'["\\{}\[\]]')
_SCALAR = re.compile(r"[^\s,;}\]\"'{\[<>]*")
_WORD = re.compile(r"[\w.:/-]*")
_LONGEST_NAME = 1024


class Cursor:
    """Text so far from `at` on; `closed` once no more comes."""

    def __init__(self) -> None:
        self.buffer = ""
        self.at = 0
        self.closed = False

    def feed(self, text: str) -> None:
        self.buffer += text

    def forget(self) -> None:
        """Drops what lies before `at`, once nobody goes back there."""
        if self.at:
            self.buffer, self.at = self.buffer[self.at :], 0

    def more(self) -> Reading[bool]:
        """Waits for more text; False if none comes."""
        if self.closed:
            return False
        yield
        return True

    def space(self) -> Reading[None]:
        """Skips white space."""
        while True:
            match = _SPACE.match(self.buffer, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.buffer) or not (yield from self.more()):
                return

    def peek(self) -> Reading[str]:
        """The next character, "" at the end."""
        while self.at >= len(self.buffer):
            if not (yield from self.more()):
                return ""
        return self.buffer[self.at]

    def literal(self, *options: str) -> Reading[str | None]:
        """Steps over the longest of `options` that stands here and returns it."""
        longest = max(map(len, options))
        while True:
            rest = self.buffer[self.at : self.at + longest]
            if not any(len(rest) < len(o) and o.startswith(rest) for o in options):
                break
            if not (yield from self.more()):
                break
        found = max((o for o in options if rest.startswith(o)), key=len, default=None)
        self.at += len(found or "")
        return found

    def stands(self, *options: str) -> Reading[str | None]:
        """The longest of `options` that stands here, without a step."""
        begin = self.at
        found = yield from self.literal(*options)
        self.at = begin
        return found

    def until(self, marks: tuple[str, ...], emit: Emit) -> Reading[str | None]:
        """Emits and forgets text up to the first of `marks` (the longest that starts there),
        and stops before it; None if the text ends without."""
        longest = max(map(len, marks), default=1)
        begin = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")
        while True:
            match = begin.search(self.buffer, self.at)
            end = match.start() if match else self._certain(marks, longest)
            if match and not self.closed and self._may_grow(match, marks):
                match = None
            if end > self.at:
                emit(self.buffer[self.at : end])
                self.at = end
                self.forget()
            if match:
                return match[0]
            if not (yield from self.more()):
                emit(self.buffer[self.at :])
                self.at = len(self.buffer)
                return None

    def _may_grow(self, match: re.Match[str], marks: tuple[str, ...]) -> bool:
        """Whether a longer mark may start where one was found at the end of the text so far."""
        tail = self.buffer[match.start() :]
        return any(len(mark) > len(tail) and mark.startswith(tail) for mark in marks)

    def _certain(self, marks: tuple[str, ...], longest: int) -> int:
        """Where the part of the text starts that a mark may begin with."""
        if self.closed:
            return len(self.buffer)
        for start in range(max(self.at, len(self.buffer) - longest + 1), len(self.buffer)):
            tail = self.buffer[start:]
            if any(mark.startswith(tail) for mark in marks):
                return start
        return len(self.buffer)

    def word(self) -> Reading[str]:
        """A name that isn't quoted; "" if there is none, or if it is too long to be one."""
        while True:
            match = _WORD.match(self.buffer, self.at)
            assert match is not None
            if match.end() - self.at > _LONGEST_NAME:
                return ""
            if match.end() < len(self.buffer) or not (yield from self.more()):
                break
        self.at = match.end()
        return match[0]

    # ---- JSON ------------------------------------------------------------------------------

    def string(self) -> Reading[str | None]:
        """A short JSON string, decoded; None (and no step) if there is none."""
        if (yield from self.peek()) != '"':
            return None
        end = self.at + 1
        while True:
            end = yield from self._ahead(end)
            if end < 0 or end - self.at > _LONGEST_NAME:
                return None
            if self.buffer[end] == '"':
                break
            end += 2 if self.buffer[end] == "\\" else 1
        try:
            value = json.loads(self.buffer[self.at : end + 1], strict=False)
        except ValueError:
            return None
        self.at = end + 1
        return value

    def _ahead(self, place: int) -> Reading[int]:
        """`place` once there is a character, -1 if the text ends before it."""
        while place >= len(self.buffer):
            if not (yield from self.more()):
                return -1
        return place

    def value(self, emit: Emit) -> Reading[bool]:
        """Emits a JSON value as it comes, by its brackets and quotes; whether it is complete."""
        first = yield from self.peek()
        if first not in ("{", "[", '"'):
            return (yield from self._scalar(emit))
        depth, quoted, escaped = 0, False, False
        while True:
            place = self.at + (1 if escaped and self.at < len(self.buffer) else 0)
            escaped = escaped and place == self.at
            while match := _STRUCTURE.search(self.buffer, place):
                character, place = match[0], match.end()
                if character == "\\":
                    escaped = place == len(self.buffer)
                    place += 0 if escaped else 1
                elif character == '"':
                    quoted = not quoted
                elif not quoted:
                    depth += 1 if character in "{[" else -1
                if depth <= 0 and not quoted and character != "\\":
                    emit(self.buffer[self.at : place])
                    self.at = place
                    return True
            if self.at < len(self.buffer):
                emit(self.buffer[self.at :])
                self.at = len(self.buffer)
            if not (yield from self.more()):
                return False

    def _scalar(self, emit: Emit) -> Reading[bool]:
        start = self.at
        while True:
            match = _SCALAR.match(self.buffer, start)
            assert match is not None
            if match.end() < len(self.buffer) or not (yield from self.more()):
                break
        self.at = match.end()
        emit(match[0])
        return bool(match[0])
