"""What a generated text becomes in a chat: thoughts, content, and calls of tools."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from ...runtime.api.generation_options import RequestOptions
from ...runtime.engine.request import Request
from ...runtime.text.reasoning import Marks, ReasoningStream, keeps_special, marks_of
from ...runtime.text.tools.calls import CallDelta
from ..served_models import Served
from .tool_choice import Tools


class Thinking(NamedTuple):
    """How a model marks what it thinks before it answers; `opened`: its text begins within."""

    marks: Marks
    opened: bool


def marks_for(served: Served, options: RequestOptions) -> Marks | None:
    """The marks that a model's template knows, which must appear in its text: `keep_special`. A
    text that must have a form has no such section."""
    template = served.model.chat_template
    if template is None or options.grammar is not None:
        return None
    marks = marks_of(template.source)
    if marks is not None and keeps_special(marks, served.model.tokenizer.special_id):
        options.keep_special = True
    return marks


class ChatText:
    """Reads one text, whole or as it comes."""

    def __init__(self, tools: Tools, thinking: Thinking | None) -> None:
        self._stream = tools.stream()
        self._many = tools.many
        self._thinking = None
        if thinking is not None:
            self._thinking = ReasoningStream(thinking.marks, opened=thinking.opened)

    @property
    def is_plain(self) -> bool:
        """Whether all of it is content."""
        return self._stream is None and self._thinking is None

    def push(self, text: str) -> Sequence[dict[str, Any]]:
        """What has become certain with this text, as deltas of a message."""
        thought = ""
        if self._thinking is not None:
            thought, text = self._thinking.push(text)
        return [*_thought(thought), *self._content(text)]

    def _content(self, text: str) -> Sequence[dict[str, Any]]:
        if self._stream is None:
            return [{"content": text}] if text else []
        return self._deltas(self._stream.push(text))

    def flush(self) -> Sequence[dict[str, Any]]:
        """What is left when no text follows."""
        deltas: list[dict[str, Any]] = []
        if self._thinking is not None:
            thought, text = self._thinking.finish()
            deltas = [*_thought(thought), *self._content(text)]
        if self._stream is not None:
            deltas += self._deltas(self._stream.finish())
        return deltas

    def _deltas(self, news: Iterable[str | CallDelta]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for one in news:
            if isinstance(one, str):
                deltas.append({"content": one})
            elif one.index == 0 or self._many:
                deltas.append({"tool_calls": [_call(one)]})
        return deltas

    def message(self, text: str) -> dict[str, Any]:
        """The message that a whole text is."""
        if self.is_plain:
            return {"content": text}
        content: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for delta in [*self.push(text), *self.flush()]:
            content.append(delta.get("content", ""))
            thoughts.append(delta.get("reasoning_content", ""))
            for call in delta.get("tool_calls", ()):
                index = call.pop("index")
                if index == len(calls):
                    calls.append(call)
                else:
                    calls[index]["function"]["arguments"] += call["function"]["arguments"]
        for call in calls:
            call["function"]["arguments"] = call["function"]["arguments"] or "{}"
        told = "".join(content)
        message: dict[str, Any] = {"content": told}
        if calls:
            message = {"content": told or None, "tool_calls": calls}
        if any(thoughts):
            message["reasoning_content"] = "".join(thoughts)
        return message

    def finish_reason(self, request: Request) -> str | None:
        """Why it ended, in OpenAI's words."""
        called = self._stream is not None and self._stream.call_count
        return "tool_calls" if called and request.finish_reason == "stop" else request.finish_reason


def _thought(text: str) -> list[dict[str, Any]]:
    return [{"reasoning_content": text}] if text else []


def _call(one: CallDelta) -> dict[str, Any]:
    if one.name is None:
        return {"index": one.index, "function": {"arguments": one.arguments}}
    return {
        "index": one.index,
        "id": f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": one.name, "arguments": one.arguments},
    }
