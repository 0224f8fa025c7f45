"""Chat messages brought into the form that a template wants; malformed ones are refused (E0209).

In OpenAI's form content is a text, null, or a list of parts, and the arguments of a tool call are
JSON text. What is null is left out, and what a model has thought goes by all of its names, as in
transformers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from ...base.errors import LlmcError

_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Types of parts that are text, and the field that holds it."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of what a model has thought before it answered; templates read the first two."""
NoContent = Literal["absent", "null", "empty"]


class Form(NamedTuple):
    """What a template wants. `parts`: every content as a list of parts. `lists`: the roles whose
    content may be one, as it comes; of others several parts become lines of one text.
    `no_content`: what stands for content beside tool calls where there is none: nothing at all, a
    null or an empty text. `argument_text`: arguments of tool calls as JSON text, instead of an
    object. `developer`: it knows that role; if not, it becomes `system`."""

    parts: bool = False
    lists: frozenset[str] = frozenset()
    no_content: NoContent = "absent"
    argument_text: bool = False
    developer: bool = False


def in_form(messages: Sequence[Mapping[str, Any]], form: Form) -> list[dict[str, Any]]:
    """Copies of the messages in a form."""
    return [_message(message, form) for message in messages]


def _message(message: Mapping[str, Any], form: Form) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        _refuse("a message needs a role")
    plain = {name: value for name, value in message.items() if value is not None}
    if plain["role"] == "developer" and not form.developer:
        plain["role"] = "system"
    calls = plain.get("tool_calls")
    if calls:
        plain["tool_calls"] = [_call(call, form) for call in _items(calls, "tool_calls")]
    else:
        plain.pop("tool_calls", None)
    if "content" in plain or not calls or form.no_content == "empty":
        plain["content"] = _content(plain.get("content", ""), plain["role"], form)
    elif form.no_content == "null":
        plain["content"] = None
    return _with_reasoning(plain)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """What was thought, by the name that templates read, and by the other one that some do."""
    thought = next((message[name] for name in _REASONING if name in message), None)
    if thought is None:
        return message
    return {"thinking": thought, **message, "reasoning_content": thought}


def _content(content: Any, role: str, form: Form) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form.parts else content
    parts = [_part(part) for part in _items(content, "content")]
    if form.parts or role in form.lists:
        return parts
    return "\n".join(part["text"] for part in parts)


def _part(part: Any) -> dict[str, Any]:
    """A part as it is, but that other kinds of text are called `text`."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    text = part.get(field) if field else None
    if not isinstance(text, str):
        _refuse(f"only text can be content, not a part of type {kind!r}")
    return {**part, "type": "text", "text": text}


def _call(call: Any, form: Form) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        _refuse("a tool call needs a function with a name")
    arguments = function.get("arguments")
    if form.argument_text:
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
    elif isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            _refuse(f"the arguments of a call of {function['name']!r} are not JSON")
    elif arguments is None:
        arguments = {}
    return {**call, "function": {**function, "arguments": arguments}}


def _items(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        _refuse(f"{name} must be a list")
    return value


def _refuse(message: str) -> NoReturn:
    raise LlmcError("LLMC-E0209", message)
