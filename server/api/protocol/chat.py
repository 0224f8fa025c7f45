"""The body of `/v1/chat/completions`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .body import Body, Count, WholeBody
from .generation_fields import GenerationBody, ResponseFormat, StreamOptions
from .tools import AllowedTools, Tool, ToolChoice


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
    hold what the model has thought. What others say with `prefix` or `partial` is the field
    `continue_final_message` here."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    prefix: Annotated[Literal[False] | None, Field(exclude=True)] = None
    partial: Annotated[Literal[False] | None, Field(exclude=True)] = None
    function_call: None = None
    audio: None = None


class ChatFields(WholeBody):
    """How a chat becomes a prompt. `continue_final_message`: the model continues the last message
    instead of answering it; `add_special_tokens`: what the tokenizer puts before a text (the
    template has it, normally); `chat_template`: the name of one of the model's templates."""

    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None


class ChatRequest(GenerationBody, ChatFields):
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
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    echo: Literal[False] | None = None
