"""Chat messages brought into the form that a template wants; malformed ones are refused (E0209).

In OpenAI's form content is a text, null, or a list of parts, and the arguments of a tool call are
JSON text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ...base.errors import LlmcError

_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Types of parts that are text, and the field that holds it."""


class Form(NamedTuple):
    """What a template wants. `parts`: content as a list of parts instead of text. `null_content`:
    null beside tool calls stays null, instead of an empty text. `argument_text`: arguments of tool
    calls as JSON text, instead of an object. `developer`: it knows that role; if not, it becomes
    `system`."""

    parts: bool = False
    null_content: bool = True
    argument_text: bool = False
    developer: bool = False


def in_form(messages: Sequence[Mapping[str, Any]], form: Form) -> list[dict[str, Any]]:
    """Copies of the messages in a form. Several text parts become lines of one text."""
    return [_message(message, form) for message in messages]


def _message(message: Mapping[str, Any], form: Form) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        _refuse("a message needs a role")
    plain = dict(message)
    if plain["role"] == "developer" and not form.developer:
        plain["role"] = "system"
    calls = plain.get("tool_calls")
    if not calls:
        plain.pop("tool_calls", None)
    else:
        plain["tool_calls"] = [_call(call, form) for call in _items(calls, "tool_calls")]
    text = _text(plain.get("content"))
    if text is None and not (calls and form.null_content):
        text = ""
    if form.parts and text is not None:
        plain["content"] = [{"type": "text", "text": text}]
    else:
        plain["content"] = text
    return plain


def _text(content: Any) -> str | None:
    """Content as one text."""
    if content is None or isinstance(content, str):
        return content
    texts = []
    for part in _items(content, "content"):
        kind = part.get("type") if isinstance(part, Mapping) else None
        field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        text = part.get(field) if field else None
        if not isinstance(text, str):
            _refuse(f"only text can be content, not a part of type {kind!r}")
        texts.append(text)
    return "\n".join(texts)


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
