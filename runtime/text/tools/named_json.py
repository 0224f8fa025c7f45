"""Calls whose name stands outside of the JSON: `[TOOL_CALLS]name[ARGS]{…}` and the like.

What varies: a mark around all calls, an id behind the name, the name behind the separator with the
arguments in a code block, a list of call objects behind the mark instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .calls import Calls, Quote
from .cursor import Cursor, Reading
from .json_calls import read_objects
from .schemas import inline_json, parameters_of, rule_name

_NAME = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?")
"""Some write a namespace before the name and a number behind it."""


@dataclass(frozen=True, slots=True)
class NamedJson:
    """`start name separator {…} end`, all of it within `section` and `section_end`.

    `kind`: stands in the place of the name, which then follows the separator and has its arguments
    in a code block. `sign`: must stand in a template besides `start` to show that it
    teaches this format.
    """

    name: str
    start: str
    separator: str
    end: str = ""
    section: str = ""
    section_end: str = ""
    id_mark: str = ""
    kind: str = ""
    sign: str = ""

    openings: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.section, self.start) if self.section else (self.start,)

    @property
    def fixed(self) -> tuple[str, ...]:
        return (*self.marks, self.separator, self.end, self.section_end, self.id_mark)

    def detect(self, template: str) -> bool:
        return self.start in template and self.sign in template

    def read(self, cursor: Cursor, calls: Calls) -> Reading[None]:
        mark = yield from cursor.literal(*self.marks)
        if mark == self.section:
            yield from cursor.space()
            if not (yield from cursor.literal(self.start)):
                return
        while (yield from self._read_call(cursor, calls)):
            cursor.forget()
            yield from cursor.space()
            for closing in filter(None, (self.end, self.section_end)):
                yield from cursor.literal(closing)
                yield from cursor.space()
            cursor.forget()
            if not (yield from cursor.literal(self.start)):
                return

    def _read_call(self, cursor: Cursor, calls: Calls) -> Reading[bool]:
        """From behind the start mark; whether the call is complete."""
        yield from cursor.space()
        if (yield from cursor.peek()) in ("[", "{"):
            before = calls.count
            yield from read_objects(cursor, calls)
            return calls.count > before
        name = yield from cursor.word()
        if self.id_mark and (yield from cursor.literal(self.id_mark)):
            yield from cursor.word()
        if not name or not (yield from cursor.literal(self.separator)):
            return False
        yield from cursor.space()
        if (yield from cursor.peek()) != "{":
            name = yield from cursor.word()
            yield from cursor.space()
            if not name or not (yield from cursor.literal("```json")):
                return False
            yield from cursor.space()
        if (yield from cursor.peek()) != "{":
            return False
        match = _NAME.fullmatch(name)
        calls.start(match[1] if match else name)
        cursor.forget()
        complete = yield from cursor.value(calls.arguments)
        yield from cursor.space()
        yield from cursor.literal("```")
        return complete

    def grammar(self, tools: Sequence[Mapping[str, Any]], quote: Quote, many: bool) -> str:
        lines = []
        for number, tool in enumerate(tools):
            rule, name = rule_name(number), tool["function"]["name"]
            head = f"{self.start}{name}{self.separator}"
            tail = self.end
            if self.kind:
                head = f"{self.start}{self.kind}{self.separator}{name}\n```json\n"
                tail = f"\n```{self.end}"
            lines.append(f"{rule}: {quote(head)} {rule}_arguments {quote(tail)}")
            lines.append(f"{rule}_arguments: {inline_json(parameters_of(tool))}")
        lines.append("call: " + " | ".join(rule_name(i) for i in range(len(tools))))
        begin, end = quote(self.section), quote(self.section_end)
        return "\n".join([f"start: {begin} call {'call*' if many else ''} {end}", *lines])
