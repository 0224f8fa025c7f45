"""What a model thinks before it answers, apart from the answer: `<think>…</think>`.

A section counts only at the very beginning. Some templates open it in the prompt, so that the
model's text begins within it.
"""

from collections.abc import Callable
from typing import NamedTuple

from .tools.cursor import Cursor, Reading


class Marks(NamedTuple):
    """What stands around a section."""

    start: str
    end: str


KNOWN = (
    Marks("<think>", "</think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
)


def marks_of(template: str) -> Marks | None:
    """The marks that a chat template knows, if any."""
    return next((marks for marks in KNOWN if marks.end in template), None)


def opened_by(prompt: str, marks: Marks) -> bool:
    """Whether a prompt ends within a section, so that the model's text begins there."""
    return prompt.rstrip().endswith(marks.start)


def keeps_special(marks: Marks, special_id: Callable[[str], int | None]) -> bool:
    """Whether special tokens must stay in the text for the marks to be seen."""
    return any(special_id(mark) is not None for mark in marks)


class ReasoningStream:
    """Splits a text as it comes into reasoning and content. White space around both marks is
    dropped; a text that begins otherwise is all content."""

    def __init__(self, marks: Marks, *, opened: bool = False) -> None:
        self._marks = marks
        self._cursor = Cursor()
        self._reasoning = ""
        self._content = ""
        self._space = ""
        self._split = self._read(opened)
        next(self._split)

    def push(self, text: str) -> tuple[str, str]:
        """Reasoning and content that have become certain with this text."""
        if text and not self._cursor.closed:
            self._cursor.feed(text)
            next(self._split)
        return self._news()

    def finish(self) -> tuple[str, str]:
        """What is left when no text follows. A section that isn't closed is all reasoning."""
        if not self._cursor.closed:
            self._cursor.closed = True
            for _ in self._split:
                pass
        return self._news()

    def _news(self) -> tuple[str, str]:
        news = self._reasoning, self._content
        self._reasoning = self._content = ""
        return news

    def _read(self, opened: bool) -> Reading[None]:
        cursor, (start, end) = self._cursor, self._marks
        yield
        yield from cursor.space()
        begins = yield from cursor.literal(start)
        if opened or begins:
            yield from cursor.space()
            yield from cursor.until((end,), self._add_reasoning)
            yield from cursor.literal(end)
            yield from cursor.space()
        else:
            cursor.at = 0
        yield from cursor.until((), self._add_content)

    def _add_reasoning(self, text: str) -> None:
        """White space waits for what follows."""
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self._reasoning += kept

    def _add_content(self, text: str) -> None:
        self._content += text
