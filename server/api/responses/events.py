"""The events of a streamed response: numbered, and each output item begun, filled and ended."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...connection.json_response import encode
from ...connection.server_sent_events import TextEvent, event
from .items import call_item, new_id

_HERE = 0
"""Every message has one part."""


class NumberedEvents:
    """Makes events with numbers that count up."""

    def __init__(self) -> None:
        self.next = 0

    def __call__(self, kind: str, **content: Any) -> bytes:
        number, self.next = self.next, self.next + 1
        return event({"type": kind, "sequence_number": number, **content}, kind)


class _TextDeltas:
    """The events that differ in their text and number only."""

    KIND = "response.output_text.delta"

    def __init__(self, numbered: NumberedEvents, where: Mapping[str, Any]) -> None:
        self._numbered = numbered
        content = {"type": self.KIND, **where, "logprobs": [], "delta": TextEvent.HOLE}
        whole = event({**content, "sequence_number": 0}, self.KIND)
        self._before, rest = whole.split(encode(TextEvent.HOLE))
        self._between, self._after = rest.rsplit(b"0", 1)

    def __call__(self, text: str) -> bytes:
        number = self._numbered.next
        self._numbered.next += 1
        parts = (self._before, encode(text), self._between, str(number).encode(), self._after)
        return b"".join(parts)


class StreamedMessage:
    """The message among the output items, which begins with the first text.

    `item`: the complete item of an id and a text.
    """

    def __init__(
        self,
        numbered: NumberedEvents,
        output: list[dict[str, Any]],
        item: Callable[[str, str], dict[str, Any]],
    ) -> None:
        self._numbered, self._output, self._item = numbered, output, item
        self._id = new_id("msg")
        self._texts: list[str] = []
        self._delta: _TextDeltas | None = None
        self._where: dict[str, Any] = {}
        self._ended = False
        self._logprobs: list[dict[str, Any]] = []

    def tell(self, logprobs: Sequence[dict[str, Any]]) -> None:
        """Has the next text tell log-probabilities of its tokens."""
        self._logprobs += logprobs

    def text(self, text: str) -> bytes:
        """The events of some more text."""
        begin = b""
        if self._delta is None or self._ended:
            begin = self._begin()
        assert self._delta is not None
        self._texts.append(text)
        if not self._logprobs:
            return begin + self._delta(text)
        told, self._logprobs = self._logprobs, []
        kind = "response.output_text.delta"
        return begin + self._numbered(kind, **self._where, logprobs=told, delta=text)

    def _begin(self) -> bytes:
        if self._ended:  # text after a call: another message
            self._id, self._texts, self._ended = new_id("msg"), [], False
        place = len(self._output)
        self._where = {"item_id": self._id, "output_index": place, "content_index": _HERE}
        self._delta = _TextDeltas(self._numbered, self._where)
        item = {**self._item(self._id, ""), "status": "in_progress", "content": []}
        self._output.append(item)
        part = {"type": "output_text", "text": "", "annotations": []}
        return self._numbered(
            "response.output_item.added", output_index=place, item=item
        ) + self._numbered("response.content_part.added", **self._where, part=part)

    def end(self, *, needed: bool) -> bytes:
        """The events of its end; an empty message is sent only if it is needed."""
        if self._ended or (self._delta is None and not needed):
            return b""
        begin = self._begin() if self._delta is None else b""
        self._ended = True
        text, place = "".join(self._texts), self._where["output_index"]
        item = self._output[place] = self._item(self._id, text)
        part = item["content"][_HERE]
        done = self._numbered
        return b"".join(
            (
                begin,
                done(
                    "response.output_text.done",
                    **self._where,
                    text=text,
                    logprobs=part.get("logprobs", []),
                ),
                done("response.content_part.done", **self._where, part=part),
                done("response.output_item.done", output_index=place, item=item),
            )
        )


class StreamedCalls:
    """The calls among the output items."""

    def __init__(self, numbered: NumberedEvents, output: list[dict[str, Any]]) -> None:
        self._numbered, self._output = numbered, output
        self._places: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, call: Mapping[str, Any]) -> bytes:
        """The events of a piece of a call, in the form that chat completions stream."""
        sent, function = b"", call["function"]
        if call["index"] not in self._places:
            place = self._places[call["index"]] = len(self._output)
            named = {"id": call["id"], "function": {**function, "arguments": ""}}
            self._output.append(call_item(named, "in_progress"))
            item = self._output[place]
            sent = self._numbered("response.output_item.added", output_index=place, item=item)
        place = self._places[call["index"]]
        item, arguments = self._output[place], function.get("arguments") or ""
        if arguments:
            item["arguments"] += arguments
            sent += self._numbered(
                "response.function_call_arguments.delta",
                item_id=item["id"],
                output_index=place,
                delta=arguments,
            )
        return sent

    def end(self) -> bytes:
        """The events of the end of all calls."""
        sent = b""
        for place in self._places.values():
            item = self._output[place]
            item["status"] = "completed"
            sent += self._numbered(
                "response.function_call_arguments.done",
                item_id=item["id"],
                output_index=place,
                name=item["name"],
                arguments=item["arguments"],
            )
            sent += self._numbered("response.output_item.done", output_index=place, item=item)
        return sent
