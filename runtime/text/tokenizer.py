"""Text to token ids and back.

`Tokenizer` wraps a tokenizer.json, which is parsed when it is first needed (100 ms for a large
vocabulary, more than all the rest of loading). `Detokenizer` turns ids into text one
by one, and `StopStrings` ends a text at a given string that may arrive in pieces.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

from ..errors import LlmcError

_BROKEN = "\ufffd"
"""What decoders put where bytes aren't (yet) a character."""


class Tokenizer:
    """A tokenizer.json. Errors: E0512 if it can't be read."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._parsed: Any = None
        self._parsing = Lock()

    def start(self) -> None:
        """Parses in the background; who needs the result waits for it. An error shows then."""

        def parse() -> None:
            with suppress(LlmcError):
                _ = self._tokenizer

        if self._parsed is None:
            Thread(target=parse, name="llmc-tokenizer").start()

    @property
    def _tokenizer(self) -> Any:
        with self._parsing:
            if self._parsed is None:
                self._parsed = _parse(bytes(self._data))
        return self._parsed

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; special tokens that stand in the text are recognized.

        Errors: E0205 if the text has halves of characters, as bytes that are not UTF-8 become.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LlmcError("LLMC-E0205", "the prompt is not UTF-8 text") from error
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def _parse(data: bytes) -> Any:
    from tokenizers import Tokenizer as Native

    try:
        return Native.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise LlmcError("LLMC-E0512", f"tokenizer.json can't be read: {error}") from error


class Detokenizer:
    """Ids in one by one, text out as soon as it is certain.

    All pieces together are what decoding all ids at once gives, and no piece ends inside a
    character. (Where a byte-fallback vocabulary spells invalid UTF-8, the whole's decoder replaces
    an entire run of bytes, also valid ones that were already given out.)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._window: list[int] = []
        """The ids of the last piece and those behind it: decoders look at what comes before."""
        self._given = 0
        """How many ids of the window are in pieces already given out."""

    def push(self, token: int) -> str:
        """The text that has become certain with this id, often empty."""
        self._window.append(token)
        before = self._decode(self._window[: self._given])
        text = self._decode(self._window)
        if len(text) <= len(before) or text.endswith(_BROKEN):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left when no id follows."""
        before = self._decode(self._window[: self._given])
        text = self._decode(self._window)
        self._window, self._given = [], 0
        return text[len(before) :]


class StopStrings:
    """Passes text through until one of `stops` appears; that string and what follows is dropped."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        if not all(self._stops):
            raise LlmcError("LLMC-E0205", "a stop string cannot be empty")
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text so far that can't belong to a stop string."""
        if self.found:
            return ""
        text = self._held + text
        positions = [p for p in (text.find(stop) for stop in self._stops) if p >= 0]
        if positions:
            self.found, self._held = True, ""
            return text[: min(positions)]
        keep = len(text) - self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of the text with which some stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
