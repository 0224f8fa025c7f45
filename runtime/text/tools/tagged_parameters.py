"""Calls with a tag for each parameter, whose values are plain text: `<parameter=city>Bern</…>`.

The types of the values come from the tool's schema.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .calls import Calls, Quote
from .cursor import Cursor, Reading
from .schemas import (
    inline_json,
    parameter_schema,
    parameters_of,
    properties_of,
    rule_name,
    types_of,
    value_of,
)
from .tagged_value import Tags, read_value


@dataclass(frozen=True, slots=True)
class TaggedParameters:
    """`start NAME name_end`, parameters, `end`; all calls within `section` and `section_end`.

    A parameter is `key_start KEY key_end value_start VALUE value_end`. One line break at each end
    of a value belongs to the markup; `line`: it is written where calls are forced.
    """

    name: str
    start: str
    name_end: str
    key_start: str
    key_end: str
    value_start: str
    value_end: str
    end: str
    section: str = ""
    section_end: str = ""
    line: str = ""

    openings: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.section, self.start) if self.section else (self.start,)

    @property
    def fixed(self) -> tuple[str, ...]:
        return (
            *self.marks,
            self.end,
            self.section_end,
            self.key_start,
            self.key_end,
            self.value_start,
            self.value_end,
        )

    @property
    def _tags(self) -> Tags:
        opening = self.value_start or self.key_start
        return Tags(opening, self.value_end, self.key_start, self.end, self.section_end, self.marks)

    def detect(self, template: str) -> bool:
        return self.start in template and self.key_start in template

    def read(self, cursor: Cursor, calls: Calls) -> Reading[bool | None]:
        mark = yield from cursor.literal(*self.marks)
        if mark == self.section:
            yield from cursor.space()
            if not (yield from cursor.literal(self.start)):
                return None
        while (yield from self._read_call(cursor, calls)):
            cursor.forget()
            yield from cursor.space()
            if self.section_end:
                yield from cursor.literal(self.section_end)
                yield from cursor.space()
            cursor.forget()
            if not (yield from cursor.literal(self.start)):
                rest = cursor.buffer[cursor.at :]
                return not any(mark.startswith(rest) for mark in (*self.marks, self.section_end))
        return None

    def _read_call(self, cursor: Cursor, calls: Calls) -> Reading[bool]:
        """From behind the start mark; whether the call is complete."""
        yield from cursor.space()
        name = yield from cursor.word()
        if not name or (self.name_end and not (yield from cursor.literal(self.name_end))):
            return False
        yield from cursor.space()
        if not (yield from cursor.stands(self.key_start, self.end)):
            return False
        calls.start(name)
        cursor.forget()
        properties = properties_of(calls.functions.get(name))
        separator = "{"
        while (yield from cursor.literal(self.key_start)):
            pair = yield from self._read_parameter(cursor, properties)
            if pair is None:
                return False
            key, value = pair
            calls.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}")
            separator = ", "
            cursor.forget()
            yield from cursor.space()
        calls.arguments("{}" if separator == "{" else "}")
        return (yield from cursor.literal(self.end)) is not None

    def _read_parameter(
        self, cursor: Cursor, properties: Mapping[str, Any]
    ) -> Reading[tuple[str, str] | None]:
        """Key and value, as JSON text, from behind the begin of the key's tag."""
        key = yield from cursor.word()
        if not key or not (yield from cursor.literal(self.key_end)):
            return None
        if self.value_start:
            yield from cursor.space()
            if not (yield from cursor.literal(self.value_start)):
                return None
        schema = properties.get(key)
        pieces: list[str] = []
        if not types_of(schema) <= {"string"} and (yield from self._read_json(cursor, pieces)):
            return key, value_of("".join(pieces), schema)
        text = yield from read_value(cursor, self._tags)
        if text is None:
            return None
        return key, value_of(text.removeprefix("\n").removesuffix("\n"), schema)

    def _read_json(self, cursor: Cursor, pieces: list[str]) -> Reading[bool]:
        """JSON with brackets or quotes, whose texts may hold any tag; no step if there is none."""
        begin = cursor.at
        yield from cursor.space()
        begins = (yield from cursor.peek()) in ("{", "[", '"')
        if begins and (yield from cursor.value(pieces.append)):
            yield from cursor.space()
            if (yield from cursor.literal(self.value_end)):
                return True
        cursor.at = begin
        return False

    def grammar(self, tools: Sequence[Mapping[str, Any]], quote: Quote, many: bool) -> str:
        lines = [line for i, tool in enumerate(tools) for line in self._tool(i, tool, quote)]
        lines.append("call: " + " | ".join(rule_name(i) for i in range(len(tools))))
        begin = quote(self.section + self.line if self.section else "")
        end = quote(self.line + self.section_end if self.section_end else "")
        more = f"({end} {quote(self.line)} {begin} call)*" if many else ""
        return "\n".join([f"start: {begin} call {more} {end}", *lines])

    def _tool(self, number: int, tool: Mapping[str, Any], quote: Quote) -> list[str]:
        """The rules of one tool: its parameters in the schema's order."""
        rule, parts, rules = rule_name(number), [], []
        required = parameters_of(tool).get("required") or ()
        for place, (key, schema) in enumerate(properties_of(tool["function"]).items()):
            own = f"{rule}_{place}"
            head = self.key_start + key + self.key_end
            head += self.line + self.value_start if self.value_start else self.line
            tail = ("" if self.value_start else self.line) + self.value_end
            if types_of(schema) == {"string"} and not _chosen(schema):
                rules.append(f"{own}: {quote(head)} {own}_text {quote(self.line)}")
                rules.append(f"{own}_text[suffix={json.dumps(self.value_end)}]: /(?s:.*)/")
            else:
                rules.append(f"{own}: {quote(head)} {own}_value {quote(tail + self.line)}")
                rules.append(f"{own}_value: {_plain_value(tool, schema)}")
            parts.append(own if key in required else f"{own}?")
        head = quote(self.start + tool["function"]["name"] + self.name_end + self.line)
        return [f"{rule}: {head} {' '.join(parts)} {quote(self.end)}", *rules]


def _chosen(schema: Any) -> bool:
    return "enum" in schema or "const" in schema


def _plain_value(tool: Mapping[str, Any], schema: Any) -> str:
    """The grammar of a value: texts of an enumeration without quotes, anything else as JSON."""
    if types_of(schema) == {"string"}:
        values = [value for value in schema.get("enum", [schema.get("const")]) if value]
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return inline_json(parameter_schema(tool, schema))
