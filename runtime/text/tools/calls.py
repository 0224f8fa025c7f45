"""Reading tool calls from a model's text, streamed or at once.

A `ToolFormat` says where markup begins and reads it with a cursor. Text outside of markup is
content. A call counts from the moment its name and the begin of its arguments are there: until then
malformed markup comes back as content; from then on the arguments are passed on as the model writes
them, as OpenAI does, so they may be cut off or invalid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .cursor import Cursor, Reading


class ToolCall(NamedTuple):
    """A call; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """News of the call number `index`: its name in the first delta only, arguments in pieces."""

    index: int
    name: str | None
    arguments: str


class Calls:
    """Where a format puts what it reads. `tools`: the offered functions by name, if given."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self.functions: dict[str, Mapping[str, Any]] = {
            tool["function"]["name"]: tool["function"] for tool in tools
        }
        self.news: list[str | CallDelta] = []
        self.count = 0
        self._space = ""
        self._after_call = False
        self._any_text = False

    def text(self, text: str) -> None:
        """Content. White space next to a call is dropped, so it waits for what follows; text
        before and behind calls becomes separate lines."""
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            if self._after_call:
                kept = ("\n" if self._any_text else "") + kept.lstrip()
            self.news.append(kept)
            self._after_call, self._any_text = False, True

    def start(self, name: str) -> None:
        """A call begins."""
        self._space, self._after_call = "", True
        self.news.append(CallDelta(self.count, name, ""))
        self.count += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the last call."""
        if text:
            self.news.append(CallDelta(self.count - 1, None, text))

    def end_of_text(self) -> None:
        if self._space and not self._after_call:
            self.news.append(self._space)
        self._space = ""


class ToolFormat(Protocol):
    """A way to write calls.

    `name`: the format's. `marks`: markup begins with one of these, wherever it stands; `openings`:
    or with one of these as the very first text. `fixed`: all its fixed texts, of which a tokenizer
    may have some as special tokens (some may be "").
    """

    @property
    def name(self) -> str: ...
    @property
    def marks(self) -> tuple[str, ...]: ...
    @property
    def openings(self) -> tuple[str, ...]: ...
    @property
    def fixed(self) -> tuple[str, ...]: ...

    def detect(self, template: str) -> bool:
        """Whether a chat template teaches this format."""
        ...

    def read(self, cursor: Cursor, calls: Calls) -> Reading[bool | None]:
        """Reads from a mark on, as far as it is well-formed. What it has read is content if no
        call started meanwhile. True: what follows is none of it, even if that was seen only when
        the text had ended; otherwise the rest of a text that has ended is markup cut off."""
        ...

    def grammar(self, tools: Sequence[Mapping[str, Any]], quote: "Quote", many: bool) -> str:
        """A grammar of one call of one of `tools`, or of several if `many`; see `forced`."""
        ...


class Quote(Protocol):
    """Writes fixed text in a grammar, special tokens as such."""

    def __call__(self, text: str) -> str: ...


class ToolStream:
    """Reads one answer as it comes. `push` and `finish` return content (str) and calls."""

    def __init__(self, format: ToolFormat, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._format = format
        self._cursor = Cursor()
        self._calls = Calls(tools)
        self._reading = self._read()
        next(self._reading)

    @property
    def call_count(self) -> int:
        """How many calls have begun."""
        return self._calls.count

    def push(self, text: str) -> list[str | CallDelta]:
        """What has become certain with this text."""
        if text and not self._cursor.closed:
            self._cursor.feed(text)
            next(self._reading)
        return self._news()

    def finish(self) -> list[str | CallDelta]:
        """What is left when no text follows."""
        if not self._cursor.closed:
            self._cursor.closed = True
            for _ in self._reading:
                pass
            self._calls.end_of_text()
        return self._news()

    def _news(self) -> list[str | CallDelta]:
        news, self._calls.news = self._calls.news, []
        return news

    def _read(self) -> Reading[None]:
        cursor, calls, format = self._cursor, self._calls, self._format
        yield
        yield from cursor.space()
        begin = cursor.at
        if format.openings and (yield from cursor.literal(*format.openings)):
            cursor.at = begin
            yield from self._read_markup()
        else:
            cursor.at = 0
        while (yield from cursor.until(format.marks, calls.text)) is not None:
            cursor.forget()
            yield from self._read_markup()

    def _read_markup(self) -> Reading[None]:
        cursor, calls = self._cursor, self._calls
        before = calls.count
        complete = yield from self._format.read(cursor, calls)
        if calls.count == before:
            calls.text(cursor.buffer[: cursor.at])
        elif cursor.closed and not complete:  # what is left is markup that was cut off
            cursor.at = len(cursor.buffer)
        cursor.forget()


def parse(
    format: ToolFormat, text: str, tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, list[ToolCall]]:
    """Content and calls of a complete answer."""
    stream = ToolStream(format, tools)
    return gathered([*stream.push(text), *stream.finish()])


def gathered(news: Sequence[str | CallDelta]) -> tuple[str, list[ToolCall]]:
    """Content and calls that all news together make."""
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for one in news:
        if isinstance(one, str):
            content.append(one)
        elif one.name is not None:
            calls.append((one.name, [one.arguments]))
        else:
            calls[one.index][1].append(one.arguments)
    return "".join(content), [ToolCall(name, "".join(pieces) or "{}") for name, pieces in calls]
