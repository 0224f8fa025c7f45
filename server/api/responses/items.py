"""The Responses interface's objects: its input as chat messages, its answer as items."""

from collections.abc import Mapping
from time import time
from typing import Any
from uuid import uuid4

from ...connection.error_objects import RequestError, unsupported
from ..chat_prompt import require_text
from ..protocol.chat import CalledFunction, Message, Part, ToolCall
from ..protocol.generation_fields import JsonSchema, ResponseFormat
from ..protocol.response import ChosenTool, ContentPart, InputItem, ResponseRequest
from ..protocol.tools import AllowedTools, Function, NamedFunction, Tool, ToolChoice, ToolsOfChoice


def new_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}_{uuid4().hex}"


_LOGPROBS = "message.output_text.logprobs"
_OTHER_ITEMS = ("reasoning.", "code_interpreter_call.", "computer_call_output.",
                "file_search_call.", "message.input_image.", "web_search_call.")  # fmt: skip
"""What else can be included is about items that answers of this server haven't."""


def tells_logprobs(body: ResponseRequest) -> bool:
    """Whether the answer is to have log-probabilities."""
    return body.top_logprobs is not None or _LOGPROBS in (body.include or ())


def check(body: ResponseRequest) -> None:
    """E0215 for what needs stored answers, or isn't there."""
    for name in body.include or ():
        if name != _LOGPROBS and not name.startswith(_OTHER_ITEMS):
            raise unsupported("include", f"can't be {name[:60]!r}")
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(body, name) is not None:
            raise unsupported(name, "is not supported: this server stores nothing")
    if body.background:
        raise unsupported("background", "is not supported: this server stores nothing")
    if body.truncation not in (None, "disabled"):
        raise unsupported("truncation", "can only be disabled")


def messages_of(body: ResponseRequest) -> list[Message]:
    """The chat that a request describes."""
    messages = []
    if body.instructions:
        messages.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        return [*messages, Message(role="user", content=body.input)]
    for number, item in enumerate(body.input):
        _add(messages, item, f"input.{number}")
    return messages


def _add(messages: list[Message], item: InputItem, param: str) -> None:
    if item.type == "message":
        if item.role is None:
            raise RequestError("LLMC-E0213", f"{param}: there is no role", param=param)
        messages.append(Message(role=item.role, content=_content(item.content, param)))
    elif item.type == "function_call":
        function = CalledFunction(name=item.name or "", arguments=item.arguments or "")
        call = ToolCall(id=item.call_id, function=function)
        last = messages[-1] if messages else None
        if last is not None and last.role == "assistant":
            last.tool_calls = [*(last.tool_calls or ()), call]
        else:
            messages.append(Message(role="assistant", tool_calls=[call]))
    elif item.type == "function_call_output":
        content = _content(item.output, param)
        messages.append(Message(role="tool", content=content or "", tool_call_id=item.call_id))
    elif item.type != "reasoning":  # which is for the model that wrote it only
        raise unsupported(param, f"of type {item.type[:40]!r} can't be read")


def _content(content: str | list[ContentPart] | None, param: str) -> str | list[Part] | None:
    if content is None or isinstance(content, str):
        return content
    parts = [Part(type=p.type, text=p.text, refusal=p.refusal) for p in content]
    require_text(parts, param)
    return parts


def _choice_in(body: ResponseRequest) -> str | ToolChoice | AllowedTools | None:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    if choice.type == "allowed_tools" and choice.tools:
        chosen = ToolsOfChoice(mode=choice.mode, tools=[_named(one) for one in choice.tools])
        return AllowedTools(type="allowed_tools", allowed_tools=chosen)
    return _named(choice)


def _named(choice: ChosenTool) -> ToolChoice:
    if choice.type != "function" or not choice.name:
        raise unsupported("tool_choice", "can only name functions")
    return ToolChoice(type="function", function=NamedFunction(name=choice.name))


def tools_in(
    body: ResponseRequest,
) -> tuple[list[Tool] | None, str | ToolChoice | AllowedTools | None]:
    """Tools and the choice among them, in the form that chat completions have them."""
    choice = _choice_in(body)
    if not body.tools:
        return None, choice
    tools = []
    for number, tool in enumerate(body.tools):
        if tool.type != "function" or not tool.name:
            raise unsupported(f"tools.{number}", "is no function: only functions can be called")
        function = Function(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict,
        )
        tools.append(Tool(type="function", function=function))
    return tools, choice


def format_of(body: ResponseRequest) -> ResponseFormat | None:
    """The form of the answer, as chat completions say it."""
    form = body.text.format if body.text is not None else None
    if form is None:
        return None
    schema = None if form.schema_ is None else JsonSchema(schema=form.schema_)
    return ResponseFormat(type=form.type, json_schema=schema, schema=None)


def call_item(call: Mapping[str, Any], status: str) -> dict[str, Any]:
    """The output item of a call."""
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": status,
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
    }


def response_object(body: ResponseRequest, model: str) -> dict[str, Any]:
    """The answer as it is before there is any output."""
    form: dict[str, Any] = {"type": "text"}
    if body.text is not None and body.text.format is not None:
        form = body.text.format.model_dump(exclude_none=True, by_alias=True)
    choice = body.tool_choice or "auto"
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": form},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }
