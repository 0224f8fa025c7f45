"""The tools that a request offers, checked; and which of them it wants called.

Both come from requests, in OpenAI's form, so anything may be wrong with them: E0212 says what.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ....base.errors import LlmcError

Tool = Mapping[str, Any]

MOST_TOOLS = 128
DEEPEST_SCHEMA = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Choice(NamedTuple):
    """Which tools an answer may call: `tools` are those that it sees, `forced` if it must call."""

    tools: tuple[Tool, ...]
    forced: bool


def checked_tools(tools: Any) -> tuple[Tool, ...]:
    """The tools of a request, each a function with a name of its own and an object schema."""
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        _refuse("tools must be a list")
    if len(tools) > MOST_TOOLS:
        _refuse(f"there are {len(tools)} tools, at most {MOST_TOOLS} are allowed")
    names: set[str] = set()
    for tool in tools:
        name = _check(tool)
        if name in names:
            _refuse(f"there are two tools named {name!r}")
        names.add(name)
    return tuple(tools)


def _check(tool: Any) -> str:
    """Refuses a malformed tool; returns the name of a good one."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        _refuse("a tool must be an object of type 'function'")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        _refuse("a tool needs an object 'function'")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        _refuse("a function's name has 1 to 64 letters, digits, '_', '-' or '.'")
    if not isinstance(function.get("description") or "", str):
        _refuse(f"the description of {name!r} must be a text")
    schema = function.get("parameters")
    if schema is None:
        return name
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        _refuse(f"the parameters of {name!r} must be a JSON schema of type 'object'")
    if _too_deep(schema):
        _refuse(f"the parameters of {name!r} are nested deeper than {DEEPEST_SCHEMA}")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        _refuse(f"the properties of {name!r} must be an object")
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        _refuse(f"'required' of {name!r} must be a list of names")
    return name


def _too_deep(schema: Any) -> bool:
    level = [schema]
    for _ in range(DEEPEST_SCHEMA):
        inner = [v.values() if isinstance(v, Mapping) else v for v in level]
        level = [v for values in inner for v in values if isinstance(v, Mapping | list)]
        if not level:
            return False
    return True


def checked_choice(choice: Any, tools: Sequence[Tool]) -> Choice:
    """What `tool_choice` means: "none", "auto" (also if null), "required", a named function, or
    some of them that are allowed: the answer sees no others."""
    if choice == "none":
        return Choice((), False)
    if choice is None or choice == "auto":
        return Choice(tuple(tools), False)
    if choice == "required":
        if not tools:
            _refuse("tool_choice is 'required', but there are no tools")
        return Choice(tuple(tools), True)
    if not isinstance(choice, Mapping) or choice.get("type") not in ("function", "allowed_tools"):
        _refuse("tool_choice must be 'none', 'auto', 'required', a function, or allowed tools")
    if choice["type"] == "function":
        return Choice((_named(choice, tools),), True)
    allowed = choice.get("allowed_tools", choice)
    named = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(named, list) or not named or not all(map(_is_object, named)):
        _refuse("allowed_tools needs a list of tools")
    chosen = [_named(one, tools) for one in named]
    distinct = {tool["function"]["name"]: tool for tool in chosen}
    return Choice(tuple(distinct.values()), allowed.get("mode") == "required")


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _named(choice: Mapping[str, Any], tools: Sequence[Tool]) -> Tool:
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, Mapping) else None
    found = next((tool for tool in tools if tool["function"]["name"] == name), None)
    if found is None:
        _refuse(f"tool_choice names {name!r}, which is not one of the tools")
    return found


def _refuse(message: str) -> NoReturn:
    raise LlmcError("LLMC-E0212", message)
