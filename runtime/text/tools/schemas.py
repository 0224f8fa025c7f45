"""The schemas of a tool's parameters, as formats and grammars need them."""

import json
from collections.abc import Mapping
from typing import Any

from ..grammar_limits import WHITE_SPACE
from ..schema_translation import translated

NO_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


def parameters_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema of a tool's arguments; always that of an object."""
    schema = tool["function"].get("parameters") or NO_PARAMETERS
    return schema if "type" in schema else {"type": "object", **schema}


def properties_of(function: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema of each parameter of a function; empty if it isn't known."""
    parameters = (function or {}).get("parameters") or {}
    properties = parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def types_of(schema: Any) -> frozenset[str]:
    """The JSON types that a schema names; empty if it names none."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if isinstance(kind, str):
        return frozenset((kind,))
    return frozenset(one for one in kind if isinstance(one, str)) if kind else frozenset()


def value_of(text: str, schema: Any) -> str:
    """A parameter that was written as plain text, as JSON text of the type that its schema names.

    A text stays a text if its schema says so, or if it isn't JSON of a type that it may have.
    """
    types = types_of(schema)
    if types == {"string"}:
        return json.dumps(text, ensure_ascii=False)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        named = {"True": True, "False": False, "None": None}
        value = named.get(text.strip(), text)
    if "string" in types and not isinstance(value, str) and _type_name(value) not in types:
        value = text
    return json.dumps(value, ensure_ascii=False)


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names.get(type(value), "null")


def inline_json(schema: Mapping[str, Any]) -> str:
    """A JSON schema inside of a grammar, with white space as templates write it. Errors: E0211."""
    said = {**translated(dict(schema)), "x-guidance": WHITE_SPACE}
    return "%json " + json.dumps(said, ensure_ascii=False)


def parameter_schema(tool: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    """The schema of one parameter by itself, with what it may refer to."""
    whole = parameters_of(tool)
    named = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
    return {**named, **schema} if isinstance(schema, Mapping) else {}


def rule_name(number: int) -> str:
    return f"tool_{number}"
