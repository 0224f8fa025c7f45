"""Ends a text at given strings that may arrive in pieces."""

import re
from collections.abc import Iterable

from ...base.errors import LlmcError


class StopStrings:
    """Passes text through until one of `stops` appears.

    That string (unless `include`) and what follows is dropped. The stop that is complete first in
    the text counts, the longest of those that end at the same place: so the text ends at the same
    place however it comes in pieces. Text without a character that begins a stop costs one search.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        if not all(self._stops):
            raise LlmcError("LLMC-E0205", "a stop string cannot be empty")
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        first = "".join(re.escape(c) for c in sorted({stop[0] for stop in self._stops}))
        self._begin = re.compile(f"[{first}]" if first else r"(?!)")
        self.begins = self._begin.search
        """Whether a text has a character that begins a stop; if not, and nothing is held, `push`
        would pass it on as it is."""
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def push(self, text: str) -> str:
        """The part of the text so far that can't belong to a stop string."""
        if self.found is not None:
            return ""
        if self._held:
            text = self._held + text
        elif not self.begins(text):
            return text
        ends = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if ends:
            end, start, self.found = min(ends)
            self._held = ""
            return text[: end if self._include else start]
        keep = self._certain(text)
        self._held = text[keep:]
        return text[:keep]

    @property
    def waits(self) -> bool:
        """Whether text is held back, or the text has ended."""
        return bool(self._held) or self.found is not None

    def flush(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _certain(self, text: str) -> int:
        """Where the longest end of the text starts with which some stop string begins."""
        for match in self._begin.finditer(text, max(0, len(text) - self._longest + 1)):
            tail = text[match.start() :]
            if any(stop.startswith(tail) for stop in self._stops):
                return match.start()
        return len(text)
