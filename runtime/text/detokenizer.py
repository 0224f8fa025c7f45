"""Token ids in one by one, text out as soon as it is certain.

All pieces together are what decoding all ids at once gives, and no piece ends inside a character.
Which class does it depends on the tokenizer's decoder (see `spelling`): a byte-level vocabulary,
tokens that are text by themselves, or anything else, which is decoded in windows.
"""

from codecs import getincrementaldecoder
from typing import Protocol

from .spelling import Spelling
from .tokenizer import Tokenizer

_BROKEN = "\ufffd"
"""What decoders put where bytes aren't (yet) a character."""

_Utf8 = getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """`settled`: nothing is pending, so an id with an entry in `whole` is that text."""

    settled: bool
    whole: dict[int, str]

    @property
    def held(self) -> int:
        """Whole characters of the ids so far that no piece had yet."""
        ...

    def push(self, token: int) -> str:
        """The text that has become certain with this id, often empty."""
        ...

    def flush(self) -> str:
        """What is left when no id follows."""
        ...


def detokenizer(tokenizer: Tokenizer, *, keep_special: bool = False) -> Detokenizer:
    """A detokenizer for one text. Special tokens are dropped unless `keep_special`."""
    spelling = tokenizer.spelling(keep_special)
    if spelling.rules is None:
        return WindowDetokenizer(tokenizer, spelling)
    if spelling.rules.byte_level:
        return ByteLevelDetokenizer(spelling)
    return PieceDetokenizer(spelling)


class ByteLevelDetokenizer:
    """Tokens are bytes, and the text is those bytes as UTF-8."""

    def __init__(self, spelling: Spelling) -> None:
        self.settled = True
        self.whole = spelling.whole
        self._spelling = spelling
        self._utf8 = _Utf8("replace")

    @property
    def held(self) -> int:
        return 0

    def push(self, token: int) -> str:
        text = self.whole.get(token)
        if text is not None and self.settled:
            return text
        if text is None and token not in self._spelling.partial:
            text = self._spelling.learn(token)
        raw = self._spelling.partial[token] if text is None else text.encode("utf-8")
        decoded = self._utf8.decode(raw)
        self.settled = not self._utf8.getstate()[0]
        return decoded

    def flush(self) -> str:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self.settled = True
        return rest


class PieceDetokenizer:
    """Tokens are text by themselves, but for runs of byte tokens and the start of the text.

    A run is held until it ends: if any of its bytes is invalid, the decoder replaces them all.
    """

    def __init__(self, spelling: Spelling) -> None:
        assert spelling.rules is not None
        self.settled = False
        self.whole = spelling.whole
        self._spelling = spelling
        self._run = bytearray()
        self._first = True
        self._strip, self._strip_left = spelling.rules.strip, spelling.rules.strip_count

    @property
    def held(self) -> int:
        return len(_Utf8("ignore").decode(bytes(self._run)))

    def push(self, token: int) -> str:
        if self.settled:
            text = self.whole.get(token)
            if text is not None:
                return text
        if self._first:
            content = self._spelling.content(token)
            if content is None:
                return ""
            self._first = False
            text, raw = self._spelling.spell(content, first=True)
        else:
            text, raw = self._look_up(token)
        if raw is not None:
            self._run += raw
            self.settled = False
            return ""
        if text is None:  # a dropped id doesn't even end a run
            return ""
        return self._stripped(self._end_of_run() + text)

    def _look_up(self, token: int) -> tuple[str | None, bytes | None]:
        """Text or byte of an id; neither if it is dropped."""
        spelling = self._spelling
        if token not in self.whole and token not in spelling.partial:
            spelling.learn(token)
        if token in spelling.partial:
            return None, spelling.partial[token]
        text = self.whole[token]
        if not text and spelling.content(token) is None:
            return None, None
        return text, None

    def _end_of_run(self) -> str:
        if not self._run:
            return ""
        try:
            text = self._run.decode("utf-8")
        except UnicodeDecodeError:
            text = _BROKEN * len(self._run)
        self._run.clear()
        return text

    def _stripped(self, text: str) -> str:
        """`text` without what is stripped from the start of the whole."""
        cut = 0
        while self._strip_left and cut < len(text):
            if text[cut] == self._strip:
                cut, self._strip_left = cut + 1, self._strip_left - 1
            else:
                self._strip_left = 0
        self.settled = not self._strip_left
        return text[cut:]

    def flush(self) -> str:
        rest = self._stripped(self._end_of_run())
        self._first, self.settled = True, False
        return rest


class WindowDetokenizer:
    """Any decoder: what an id adds is the difference of decoding with and without it.

    Decoders look at what comes before, so the window holds the ids of the last piece as well.
    """

    def __init__(self, tokenizer: Tokenizer, spelling: Spelling) -> None:
        self.settled = False
        self.whole: dict[int, str] = {}
        self._tokenizer, self._spelling = tokenizer, spelling
        self._window: list[int] = []
        self._given = 0
        """How many ids of the window are in pieces already given out."""

    @property
    def held(self) -> int:
        before, text = self._decode(self._window[: self._given]), self._decode(self._window)
        return max(0, len(text.rstrip(_BROKEN)) - len(before))

    def push(self, token: int) -> str:
        if self._spelling.content(token) is None:
            return ""
        self._window.append(token)
        before, text = self._decode(self._window[: self._given]), self._decode(self._window)
        if len(text) <= len(before) or text.endswith(_BROKEN):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return text[len(before) :]

    def flush(self) -> str:
        before, text = self._decode(self._window[: self._given]), self._decode(self._window)
        self._window, self._given = [], 0
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, keep_special=self._spelling.keep_special)
