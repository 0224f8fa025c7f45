"""The bodies of `/tokenize` and `/detokenize`."""

from typing import Annotated, Any

from pydantic import Field

from .body import Body, Int
from .chat import Message


class TokenizeRequest(Body):
    """A text, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: Annotated[list[Int], Field(max_length=1_000_000)]
