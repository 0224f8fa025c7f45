"""Server-sent events as bytes."""

from typing import Any

from ...base.errors import LlmcError
from .error_objects import content_of
from .json_response import encode

DONE = b"data: [DONE]\n\n"


def event(content: Any, name: str | None = None) -> bytes:
    """One event with a JSON value, under a name if one is given."""
    head = b"data: " if name is None else b"event: " + name.encode() + b"\ndata: "
    return head + encode(content) + b"\n\n"


def failure(error: LlmcError) -> bytes:
    """The event that tells of an error when the answer is under way already."""
    return event(content_of(error))


class TextEvent:
    """Events that differ in one text: everything else is encoded once.

    `content` holds `HOLE` where the text goes.
    """

    HOLE = "\0text\0"

    def __init__(self, content: Any, name: str | None = None) -> None:
        whole = event(content, name)
        self._before, self._after = whole.split(encode(self.HOLE))

    def __call__(self, text: str) -> bytes:
        return self._before + encode(text) + self._after
