"""The body of `/v1/responses`, text and function tools."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .body import Body, Count
from .chat import ChatFields
from .generation_fields import GenerationBody, StreamOptions


class ContentPart(Body):
    """A part of a message's content; only text can be read here."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Body):
    """A message, a call that the model made, or what a call gave."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None


class ResponseTool(Body):
    """A tool; only functions are tools here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Body):
    """A tool that must be called, or, of type `allowed_tools`, those that may or must be."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list["ChosenTool"] | None = None


class TextFormat(Body):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(Body):
    """How the answer's text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    """How much to think; handed to the chat template. There are no summaries to choose among."""

    effort: str | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class ResponseRequest(GenerationBody, ChatFields):
    """What `/v1/responses` is asked."""

    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    stream_options: StreamOptions | None = None
    truncation: str | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    include: list[str] | None = None
    prompt: Any = None
