"""The text of one request: its tokens in, its certain text out, ended by stop strings."""

from collections.abc import Sequence

from .detokenizer import Detokenizer, detokenizer
from .stop_strings import StopStrings
from .tokenizer import Tokenizer


class OutputText:
    """Tokens one by one to text.

    All pieces together are the decoded whole up to the first of the `stop` strings, and no piece
    ends inside a character. Special tokens are dropped unless `keep_special`. `include_stop`: the
    text ends with what ends it, and whoever knows of a stop id pushes that one, too. Errors: E0205
    for an empty stop string; with the first token, E0512 if the tokenizer can't be read.
    """

    __slots__ = (
        "_begins",
        "_detokenizer",
        "_direct",
        "_keep_special",
        "_stops",
        "_tokenizer",
        "_whole",
        "include_stop",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        keep_special: bool = False,
        include_stop: bool = False,
    ) -> None:
        self._tokenizer, self._keep_special = tokenizer, keep_special
        self.include_stop = include_stop
        self._stops = StopStrings(stop, include=include_stop) if stop else None
        self._begins = self._stops.begins if self._stops is not None else None
        self._detokenizer: Detokenizer | None = None
        """Made with the first token, since that may wait for the tokenizer to be parsed."""
        self._whole: dict[int, str] = {}
        self._direct = False
        """Whether the text of the next token is its entry in `_whole`, if it has one and no stop
        string begins there."""
        tokenizer.start()

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; what is pushed after it is dropped."""
        return self._stops is not None and self._stops.found is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found if self._stops is not None else None

    def push(self, token: int) -> str:
        """The text that has become certain with this token, often empty."""
        if self._direct:
            text = self._whole.get(token)
            if text is not None and (self._begins is None or not self._begins(text)):
                return text
        detokenizer = self._detokenizer or self._start()
        text = detokenizer.push(token)
        if self._stops is None:
            self._direct = detokenizer.settled
            return text
        if text:
            text = self._stops.push(text)
        self._direct = detokenizer.settled and not self._stops.waits
        return text

    def flush(self) -> str:
        """What is left when no token follows; a stop string may be complete only now."""
        text = self._detokenizer.flush() if self._detokenizer is not None else ""
        if self._stops is not None:
            text = self._stops.push(text) + self._stops.flush()
        self._direct = False
        return text

    def _start(self) -> Detokenizer:
        self._detokenizer = detokenizer(self._tokenizer, keep_special=self._keep_special)
        self._whole = self._detokenizer.whole
        return self._detokenizer
