"""JSON schemas in the words of `llguidance`: keywords that it hasn't, as those that it has.

In: a schema (draft 2020-12) as an object. Out: a schema that accepts the same values, or E0211 that
names what can't be said. A keyword that both know passes through; one that neither knows is for
`llguidance` to refuse.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from .grammar_limits import check_regex, refused
from .schema_formats import IMPOSSIBLE, LENGTHS, LIBRARYS, PATTERNS

MAX_ARRAYS = 100_000
"""Most characters, about, of all arrays that the `uniqueItems` of a schema are written out as."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose value has names of its own, and schemas behind them."""
_VALUES = ("const", "enum", "default", "examples", "example")
"""Keywords whose value is no schema."""
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "$comment", "format")
)
_LARGEST = 2**31 - 1
_KINDS: tuple[tuple[tuple[str, ...], type | tuple[type, ...], str], ...] = (
    (("allOf", "anyOf", "oneOf", "prefixItems", "enum"), list, "a list"),
    (("pattern", "format"), str, "a text"),
    (("type",), (str, list), "a type or a list of types"),
    (("uniqueItems",), bool, "true or false"),
    (("properties", "patternProperties"), dict, "an object"),
)
"""What the value of a keyword must be, of those that are read here."""
_OTHER_TYPES = ("null", "boolean", "object", "number", "string")


def translated(schema: Any) -> Any:
    """The schema in the library's words. Errors: E0211."""
    return _Translation(schema).of(schema if not isinstance(schema, bool) else _boolean(schema))


def _boolean(schema: bool) -> dict[str, Any]:
    if not schema:
        raise refused("the JSON schema is false: no value is valid")
    return {}


class _Translation:
    """Of one schema, whose `$ref`s may be looked up."""

    def __init__(self, root: Any) -> None:
        self._root, self._room = root, MAX_ARRAYS

    def of(self, schema: Any) -> Any:
        """A schema or a list of schemas; anything else as it is."""
        if isinstance(schema, list):
            return [self.of(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        checked = _checked(schema)
        made = {key: self._inner(key, value) for key, value in checked.items()}
        _drop_idle(made)
        if "format" in made:
            _translate_format(made)
        if "propertyNames" in made:
            self._translate_names(made)
        if "uniqueItems" in made:
            self._translate_unique(made)
        return made

    def _inner(self, key: str, value: Any) -> Any:
        if key in _VALUES or key.startswith("x-"):
            return value
        if key in _MAPS and isinstance(value, dict):
            return {name: self.of(one) for name, one in value.items()}
        return self.of(value)

    def _resolved(self, schema: Any) -> Any:
        """What a `$ref` alone points to within the document, else the schema itself."""
        for _ in range(8):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema
            if set(schema) - _ANNOTATIONS != {"$ref"} or not schema["$ref"].startswith("#/"):
                return schema
            target: Any = self._root
            for part in schema["$ref"][2:].split("/"):
                name = part.replace("~1", "/").replace("~0", "~")
                target = target.get(name) if isinstance(target, dict) else None
            schema = target
        return schema

    # ---- propertyNames ---------------------------------------------------------------------

    def _translate_names(self, made: dict[str, Any]) -> None:
        names = self._resolved(made.pop("propertyNames"))
        if isinstance(names, bool):
            names = {} if names else {"enum": []}
        if not isinstance(names, dict):
            raise refused("propertyNames is no schema, or refers to none")
        asked = {k: v for k, v in _checked(names).items() if k not in _ANNOTATIONS - {"format"}}
        kinds = asked.pop("type", "string")
        if kinds != "string" and "string" not in (kinds if isinstance(kinds, list) else ()):
            asked = {"enum": []}
        allowed, only = _listed(asked), {}
        if allowed is not None:
            only["properties"] = {name: True for name in allowed if isinstance(name, str)}
        elif pattern := _name_pattern(asked):
            only["patternProperties"] = {pattern: True}
        if only:
            made["allOf"] = [*made.get("allOf", ()), {**only, "additionalProperties": False}]

    # ---- uniqueItems -----------------------------------------------------------------------

    def _translate_unique(self, made: dict[str, Any]) -> None:
        if not made.pop("uniqueItems"):
            return
        least, most = made.get("minItems", 0), made.get("maxItems")
        if (most is not None and most <= 1) or self._single(made):
            return
        values = _finite(self._resolved(made.get("items")))
        if values is None or "prefixItems" in made:
            raise refused("uniqueItems is only supported where items is an enum, or maxItems is 1")
        most = len(values) if most is None else min(most, len(values))
        arrays = []
        for chosen in (c for n in range(least, most + 1) for c in permutations(values, n)):
            self._room -= 100 + sum(len(_canonical(value)) for value in chosen)
            if self._room < 0:
                raise refused(f"uniqueItems: there are too many arrays of {len(values)} values")
            arrays.append(_array(chosen))
        for key in ("items", "minItems", "maxItems"):
            made.pop(key, None)
        if not arrays:
            raise refused("uniqueItems: there are not as many values as minItems asks for")
        others = [{"type": kind} for kind in _OTHER_TYPES if _may_be(made, kind)]
        _also(made, "anyOf", [*arrays, *others])

    def _single(self, made: Mapping[str, Any]) -> bool:
        """Whether there can't be two items."""
        first = made.get("prefixItems")
        return made.get("items") is False and (not first or len(first) <= 1)


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose keywords have values of the right kinds, counts as whole numbers. E0211."""
    made = dict(schema)
    for keys, kind, what in _KINDS:
        for key in keys:
            if key in made and not isinstance(made[key], kind):
                raise refused(f"{key} in a JSON schema must be {what}")
    kinds = made.get("type")
    if isinstance(kinds, list) and not all(isinstance(one, str) for one in kinds):
        raise refused("type in a JSON schema must be a type or a list of types")
    for key in _COUNTS:
        if key in made:
            made[key] = _count(key, made[key])
    return made


def _count(key: str, value: Any) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not 0 <= value <= _LARGEST:
        raise refused(f"{key} in a JSON schema must be a whole number from 0 to {_LARGEST}")
    return int(value)


def _drop_idle(made: dict[str, Any]) -> None:
    """Drops what has no effect without another keyword."""
    if "if" not in made:
        made.pop("then", None)
        made.pop("else", None)
    elif "then" not in made and "else" not in made:
        del made["if"]
    if "contains" not in made:
        made.pop("minContains", None)
        made.pop("maxContains", None)


def _translate_format(made: dict[str, Any]) -> None:
    """One that nobody defines is an annotation."""
    name = made["format"]
    if name in IMPOSSIBLE:
        raise refused(f"the format {name!r} can't be kept to by a grammar")
    if name in LIBRARYS:
        return
    del made["format"]
    if name in PATTERNS:
        _also(made, "pattern", PATTERNS[name])
    if name in LENGTHS:
        _also(made, "maxLength", LENGTHS[name])


def _also(made: dict[str, Any], key: str, value: Any) -> None:
    """Adds a keyword, beside one of the same name that is there."""
    if key in made:
        made["allOf"] = [*made.get("allOf", ()), {key: value}]
    else:
        made[key] = value


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values of a schema that is nothing but a list of them."""
    if set(schema) == {"const"}:
        return [schema["const"]]
    if set(schema) == {"enum"} and isinstance(schema["enum"], list):
        return schema["enum"]
    return None


def _name_pattern(asked: Mapping[str, Any]) -> str:
    """A regular expression that is found in the names that a schema of texts allows; "" if in
    all."""
    keys = set(asked)
    if not keys:
        return ""
    if keys == {"pattern"}:
        return asked["pattern"]
    if keys == {"format"}:
        made = dict(asked)
        _translate_format(made)
        if not made:
            return ""
        if set(made) == {"pattern"}:
            return made["pattern"]
    if keys <= {"minLength", "maxLength"}:
        least, most = asked.get("minLength", 0), asked.get("maxLength", "")
        pattern = f"^(?s:.){{{least},{most}}}$"
        check_regex(pattern)
        return pattern
    raise refused(f"propertyNames with {' and '.join(sorted(keys))} is not supported")


def _finite(schema: Any) -> list[Any] | None:
    """All values of a schema that has a few, each once."""
    if not isinstance(schema, Mapping):
        return None
    asked = {k: v for k, v in _checked(dict(schema)).items() if k not in _ANNOTATIONS}
    kind = asked.pop("type", None)
    if not asked and kind in ("boolean", "null"):
        return [True, False] if kind == "boolean" else [None]
    values = _listed(asked)
    if values is None:
        return None
    distinct = {_canonical(value): value for value in values}
    return [value for value in distinct.values() if kind is None or _is(value, kind)]


def _canonical(value: Any) -> str:
    """A text that is the same for equal JSON values: 1 and 1.0 are."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(value)


def _is(value: Any, kinds: Any) -> bool:
    """Whether a value is of a type, or of one of several."""
    names = {dict: {"object"}, list: {"array"}, str: {"string"}, bool: {"boolean"}}
    own = names.get(type(value), {"null"} if value is None else {"number"})
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        own = {"number", "integer"}
    return bool(own & set([kinds] if isinstance(kinds, str) else kinds))


def _array(values: Sequence[Any]) -> dict[str, Any]:
    """The schema of the array of these values."""
    return {
        "type": "array",
        "prefixItems": [{"const": value} for value in values],
        "items": False,
        "minItems": len(values),
    }


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether the type of a schema leaves room for this one."""
    kinds = schema.get("type")
    return kinds is None or kind in ([kinds] if isinstance(kinds, str) else kinds)
