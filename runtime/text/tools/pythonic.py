"""Calls written as a list of Python calls: `[weather(city="Bern", days=2), now()]`.

The list is read with Python's parser, never evaluated: arguments are literals given by name. JSON's
`true`, `false` and `null` are taken, too.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .calls import Calls, Quote
from .cursor import Cursor, Reading
from .schemas import inline_json, parameter_schema, parameters_of, properties_of, rule_name

_DEEPEST = 64
"""Brackets within one another; more would bring Python's parser to its limits."""
_STRUCTURE = re.compile(r"""["'\\()\[\]{},]""")
_KEY = re.compile(r"[\w.-]+")
_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Pythonic:
    """A list of calls, behind `start` or, where a call of an offered tool is all that the answer
    begins with, without a mark."""

    name: str
    start: str = ""
    end: str = ""
    signs: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.start,) if self.start else ()

    @property
    def openings(self) -> tuple[str, ...]:
        return () if self.start else ("[",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return (self.start, self.end)

    def detect(self, template: str) -> bool:
        return any(sign in template for sign in self.signs or (self.start,))

    def read(self, cursor: Cursor, calls: Calls) -> Reading[None]:
        if self.start:
            yield from cursor.literal(self.start)
            yield from cursor.space()
        if not (yield from cursor.literal("[")):
            return
        while True:
            yield from cursor.space()
            name = yield from cursor.word()
            begin = cursor.at
            known = bool(self.start) or name in calls.functions
            if not name or not known or not (yield from self._bracket(cursor)):
                return
            arguments = arguments_of(cursor.buffer[begin : cursor.at])
            if arguments is None:
                return
            calls.start(name)
            calls.arguments(arguments)
            cursor.forget()
            yield from cursor.space()
            if not (yield from cursor.literal(",")):
                break
        yield from cursor.literal("]")
        if self.end:
            yield from cursor.space()
            yield from cursor.literal(self.end)
        cursor.forget()

    def _bracket(self, cursor: Cursor) -> Reading[bool]:
        """Steps over everything from a bracket to the one that closes it."""
        if (yield from cursor.peek()) != "(":
            return False
        place, depth, quote = cursor.at, 0, ""
        while True:
            match = _STRUCTURE.search(cursor.buffer, place)
            if match is None or (match[0] == "\\" and match.end() == len(cursor.buffer)):
                place = match.start() if match else len(cursor.buffer)
                if not (yield from cursor.more()):
                    cursor.at = len(cursor.buffer)
                    return False
                continue
            character, place = match[0], match.end() + (match[0] == "\\")
            if quote:
                quote = "" if character == quote else quote
            elif character in "\"'":
                quote = character
            elif character in "([{)]}":
                depth += 1 if character in "([{" else -1
            if depth > _DEEPEST:
                cursor.at = place
                return False
            if depth == 0 and not quote:
                cursor.at = place
                return True

    def grammar(self, tools: Sequence[Mapping[str, Any]], quote: Quote, many: bool) -> str:
        lines = [line for i, tool in enumerate(tools) for line in _tool(i, tool, quote)]
        lines.append("call: " + " | ".join(rule_name(i) for i in range(len(tools))))
        begin = quote(f"{self.start}[")
        more = '(", " call)*' if many else ""
        return "\n".join([f"start: {begin} call {more} {quote(']' + self.end)}", *lines])


def _tool(number: int, tool: Mapping[str, Any], quote: Quote) -> list[str]:
    """The rules of one tool: required parameters, then the others, in the schema's order."""
    rule, rules, parts = rule_name(number), [], []
    required = set(parameters_of(tool).get("required") or ())
    properties = sorted(
        properties_of(tool["function"]).items(), key=lambda item: item[0] not in required
    )
    for place, (key, schema) in enumerate(properties):
        own = f"{rule}_{place}"
        parts.append(own if key in required else f"{own}?")
        rules.append(f"{own}: {quote(key + '=')} {own}_value")
        rules.append(f"{own}_value: {inline_json(parameter_schema(tool, schema))}")
    head = quote(tool["function"]["name"] + "(")
    return [f'{rule}: {head} {_separated(parts)} ")"', *rules]


def _separated(parts: Sequence[str]) -> str:
    """Parts in order with commas between them; those with a question mark may be left out."""
    if not parts:
        return ""
    chains = []
    for first, part in enumerate(parts):
        rest = [f'(", " {p[:-1]})?' if p.endswith("?") else f'", " {p}' for p in parts[first + 1 :]]
        chains.append(" ".join([part.removesuffix("?"), *rest]))
        if not part.endswith("?"):
            return f"({' | '.join(chains)})"
    return f"({' | '.join(chains)})?"


def arguments_of(bracket: str) -> str | None:
    """The arguments of a call, brackets included, as JSON text; None if they aren't named literals.

    Names may be words that Python keeps for itself, such as `from`.
    """
    pairs = {}
    try:
        for item in _items(bracket[1:-1]):
            key, equals, value = item.partition("=")
            if not equals or not _KEY.fullmatch(key.strip()):
                return None
            pairs[key.strip()] = _literal(ast.parse(value.strip(), mode="eval").body)
        return json.dumps(pairs, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _items(text: str) -> list[str]:
    """A text cut at the commas that stand in no brackets or quotes; a last comma ends it."""
    items, begin, depth, quote, place = [], 0, 0, "", 0
    while match := _STRUCTURE.search(text, place):
        character, place = match[0], match.end() + (match[0] == "\\")
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "," and not depth:
            items.append(text[begin : match.start()])
            begin = match.end()
        elif character in "([{)]}":
            depth += 1 if character in "([{" else -1
    last = text[begin:]
    return [*items, last] if last.strip() else items


def _literal(node: ast.expr) -> Any:
    """The value of a literal; ValueError for anything else."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys must be texts")
        return {key: _literal(value) for key, value in zip(keys, node.values, strict=True)}
    value = ast.literal_eval(node)
    if isinstance(value, str):  # JSON writes characters beyond U+FFFF as two halves
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    if value is not None and not isinstance(value, bool | int | float):
        raise ValueError("no JSON value")
    return value
