"""The body of `/v1/chat/completions`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .body import Body, Count
from .generation_fields import GenerationBody, ResponseFormat, StreamOptions
from .tools import Tool, ToolChoice


class Part(Body):
    """A part of a message's content. Only text can be read here; what else it says of itself is
    for the chat template."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Body):
    """What was called and with which arguments, as JSON text."""

    name: str
    arguments: str = ""


class ToolCall(Body):
    """A call that the model made earlier."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One message of a chat. Templates may read fields that are not named here, such as those that
    hold what the model has thought."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class ChatRequest(GenerationBody):
    """What `/v1/chat/completions` is asked."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
