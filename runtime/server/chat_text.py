"""What a generated text becomes in a chat: content, and calls of tools in it."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from ..engine.request import Request
from ..text.tools.calls import CallDelta
from .tools import Tools


class ChatText:
    """Reads one text, whole or as it comes."""

    def __init__(self, tools: Tools) -> None:
        self._stream = tools.stream()
        self._many = tools.many

    @property
    def is_plain(self) -> bool:
        """Whether all of it is content."""
        return self._stream is None

    def push(self, text: str) -> Sequence[dict[str, Any]]:
        """What has become certain with this text, as deltas of a message."""
        if self._stream is None:
            return [{"content": text}] if text else []
        return self._deltas(self._stream.push(text))

    def flush(self) -> Sequence[dict[str, Any]]:
        """What is left when no text follows."""
        return [] if self._stream is None else self._deltas(self._stream.finish())

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
        if self._stream is None:
            return {"content": text}
        content: list[str] = []
        calls: list[dict[str, Any]] = []
        for delta in [*self.push(text), *self.flush()]:
            content.append(delta.get("content", ""))
            for call in delta.get("tool_calls", ()):
                index = call.pop("index")
                if index == len(calls):
                    calls.append(call)
                else:
                    calls[index]["function"]["arguments"] += call["function"]["arguments"]
        for call in calls:
            call["function"]["arguments"] = call["function"]["arguments"] or "{}"
        told = "".join(content)
        return {"content": told or None, "tool_calls": calls} if calls else {"content": told}

    def finish_reason(self, request: Request) -> str | None:
        """Why it ended, in OpenAI's words."""
        called = self._stream is not None and self._stream.call_count
        return "tool_calls" if called and request.finish_reason == "stop" else request.finish_reason


def _call(one: CallDelta) -> dict[str, Any]:
    if one.name is None:
        return {"index": one.index, "function": {"arguments": one.arguments}}
    return {
        "index": one.index,
        "id": f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": one.name, "arguments": one.arguments},
    }


def chat_texts(tools: Tools, count: int) -> list[ChatText]:
    """A reader for each of `count` texts."""
    return [ChatText(tools) for _ in range(count)]
