"""Text to token ids and back.

`Tokenizer` wraps a tokenizer.json, which is parsed when it is first needed (100 ms for a large
vocabulary, more than all the rest of loading). Truncation and padding that training left in the
file are switched off: a prompt is never cut or filled up. `output` turns ids into text one by one.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from threading import Lock, Thread
from typing import Any

from ...base.errors import LlmcError
from .segments import SegmentCache
from .spelling import Spelling, byte_level

Encode = Callable[[str, bool], Sequence[int]]
"""Ids of a text; the flag says whether with what a tokenizer puts around it."""


class Tokenizer:
    """A tokenizer.json. Errors: E0512 if it can't be read.

    `split_special_tokens`: special tokens that stand in a text are ordinary text. `proof` is asked
    once, before the first use, what is wrong with how texts are encoded: E0510 if anything is.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        *,
        split_special_tokens: bool = False,
        proof: Callable[[Encode], str | None] | None = None,
    ) -> None:
        self._data = data
        self._split_special_tokens, self._proof = split_special_tokens, proof
        self._parsed: Any = None
        self._was_limited = False
        self._parsing = Lock()
        self._spellings: dict[bool, Spelling] = {}
        self._bytes: dict[int, bytes] = {}

    @property
    def data(self) -> bytes:
        """The tokenizer.json, without truncation and padding."""
        native = self.native
        return native.to_str().encode() if self._was_limited else bytes(self._data)

    def start(self) -> None:
        """Parses in the background; who needs the result waits for it. An error shows then."""

        def parse() -> None:
            with suppress(LlmcError):
                _ = self.native

        if self._parsed is None:
            Thread(target=parse, name="llmc-tokenizer").start()

    @property
    def native(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        if self._parsed is None:
            with self._parsing:
                if self._parsed is None:
                    native = _parse(bytes(self._data))
                    self._was_limited = unlimited(native)
                    native.encode_special_tokens = self._split_special_tokens
                    self._prove(native)
                    self._parsed = native
        return self._parsed

    def _prove(self, native: Any) -> None:
        def encode(text: str, marked: bool) -> list[int]:
            return guarded(lambda: native.encode(text, add_special_tokens=marked).ids)

        wrong = self._proof(encode) if self._proof is not None else None
        if wrong is not None:
            raise LlmcError("LLMC-E0510", f"the tokenizer isn't the one that was compiled: {wrong}")

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; special tokens that stand in the text are recognized.

        Errors: E0205 if the text has halves of characters, as bytes that are not UTF-8 become.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LlmcError("LLMC-E0205", "the prompt is not UTF-8 text") from error
        segments = self._segments
        if segments is not None and not add_special_tokens:
            return segments.encode(text)
        native = self.native
        return guarded(lambda: native.encode(text, add_special_tokens=add_special_tokens).ids)

    @cached_property
    def _segments(self) -> SegmentCache | None:
        """Remembers the parts of prompts, where they don't depend on one another."""
        native = self.native

        def encode(text: str) -> list[int]:
            return guarded(lambda: native.encode(text, add_special_tokens=False).ids)

        return SegmentCache.of(native, encode)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """The text of ids, without special tokens unless they are kept.

        Errors: E0208 if an id can't be one (those merely outside the vocabulary have no text).
        """
        native, ids = self.native, list(ids)
        if ids and not (min(ids) >= 0 and max(ids) < 1 << 32):
            raise LlmcError("LLMC-E0208", "a token id is negative or too large")
        return guarded(lambda: native.decode(ids, skip_special_tokens=not keep_special))

    def token_id(self, content: str) -> int | None:
        """The id of what stands in the vocabulary, such as a special token."""
        return self.native.token_to_id(content)

    def special_id(self, content: str) -> int | None:
        """The id of a special token, such as a mark of tool calls; None for any other text."""
        if content in self.spelling(False).special:
            return self.token_id(content)
        return None

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, which need not be whole characters.

        A special token has its name, an id outside the vocabulary nothing.
        """
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spelled(token)
        return found

    def _spelled(self, token: int) -> bytes:
        spelling = self.spelling(True)
        content = spelling.content(token)
        if content is None:
            return b""
        if spelling.rules is None:
            return self.decode([token], keep_special=True).encode("utf-8")
        if spelling.rules.byte_level:
            return byte_level(content)
        text, raw = spelling.spell(content, first=False)
        return text.encode("utf-8") if text is not None else raw or b""

    def spelling(self, keep_special: bool) -> Spelling:
        """What each token spells; its tables are shared by all texts and fill as ids come up."""
        if keep_special not in self._spellings:
            self._spellings[keep_special] = Spelling(self.native, keep_special)
        return self._spellings[keep_special]


def guarded(work: Callable[[], Any]) -> Any:
    """Runs the library, which raises plain exceptions, for words that a vocabulary lacks, and
    panics, which are no `Exception` and would end the engine's thread."""
    try:
        return work()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:100]
            raise LlmcError("LLMC-E0512", f"the tokenizer failed on this text: {reason}") from error
        raise


def _parse(data: bytes) -> Any:
    from tokenizers import Tokenizer as Native

    try:
        native = Native.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise LlmcError("LLMC-E0512", f"tokenizer.json can't be read: {error}") from error
    return native


def unlimited(native: Any) -> bool:
    """Switches off the truncation and the padding that training left in a `tokenizers.Tokenizer`.

    As transformers does at each call that doesn't ask for them. True if there was any.
    """
    limits = native.truncation is not None or native.padding is not None
    native.no_truncation()
    native.no_padding()
    return limits
