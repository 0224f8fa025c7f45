"""The bodies of `/tokenize` and `/detokenize`."""

from typing import Annotated

from pydantic import Field

from .body import Body, Int
from .chat import ChatFields, Message
from .tools import Tool


class TokenizeRequest(ChatFields):
    """A text, or the messages of a chat and its tools. `add_special_tokens`: by default of a text
    only, as in the endpoints that generate."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: Annotated[list[Int], Field(max_length=1_000_000)]
