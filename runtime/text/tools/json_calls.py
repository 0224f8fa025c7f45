"""Calls written as JSON objects: `{"name": …, "arguments": {…}}`, one, several, or in a list.

What models vary: `parameters` for `arguments`, the call inside of `"function"`, arguments before
the name, arguments as a JSON string, other keys beside them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .calls import Calls, Quote
from .cursor import Cursor, Reading
from .schemas import inline_json, parameters_of, rule_name

_ARGUMENTS = ("arguments", "parameters")
_SCALARS_FIRST = ("type", "id")
"""Keys that may stand before the name where only a known name tells a call from other JSON."""


@dataclass(slots=True)
class _Object:
    """An object that is being read. `strict`: it is a call only if it begins as one."""

    strict: bool
    started: bool = False
    early: list[str] = field(default_factory=list)
    """Arguments that came before the name."""
    name: str | None = None


def read_objects(cursor: Cursor, calls: Calls, *, strict: bool = False) -> Reading[None]:
    """Reads call objects behind one another (`,` or `;` between them) or in a list."""
    yield from cursor.space()
    listed = yield from cursor.literal("[")
    before = calls.count
    while True:
        yield from cursor.space()
        state = _Object(strict)
        if not (yield from _read_object(cursor, calls, state)):
            if calls.count > before and not state.started:
                calls.text(cursor.buffer[: cursor.at])
                cursor.forget()
            return
        cursor.forget()
        yield from cursor.space()
        if not (yield from cursor.literal(",", ";")):
            break
    if listed:
        yield from cursor.literal("]")
        cursor.forget()


def _read_object(cursor: Cursor, calls: Calls, state: _Object) -> Reading[bool]:
    """One object; whether it was read to its end and is a call."""
    if not (yield from cursor.literal("{")):
        return False
    inner = 0
    while True:
        yield from cursor.space()
        key = yield from cursor.string()
        if key is None or not (yield from _colon(cursor)):
            break
        if key == "function" and not inner and (yield from cursor.peek()) == "{":
            inner += len((yield from cursor.literal("{")) or "")
            continue
        if not (yield from _read_member(cursor, calls, state, key)):
            return False
        yield from cursor.space()
        while (yield from cursor.peek()) == "}":
            cursor.at += 1
            if not inner:
                return _end(calls, state)
            inner -= 1
            yield from cursor.space()
        if not (yield from cursor.literal(",")):
            break
    return False


def _colon(cursor: Cursor) -> Reading[bool]:
    yield from cursor.space()
    found = yield from cursor.literal(":")
    yield from cursor.space()
    return found is not None


def _read_member(cursor: Cursor, calls: Calls, state: _Object, key: str) -> Reading[bool]:
    """The value of a key; False if the object is no call."""
    if key == "name" and state.name is None:
        state.name = yield from cursor.string()
        return bool(state.name) and (not state.strict or state.name in calls.functions)
    if key not in _ARGUMENTS or state.started:
        if state.strict and state.name is None and key not in _SCALARS_FIRST:
            return False
        return (yield from cursor.value(lambda text: None))
    first = yield from cursor.peek()
    if state.name is None or first != "{":
        if state.strict and state.name is None:
            return False
        return (yield from cursor.value(state.early.append))
    state.started = True
    calls.start(state.name)
    cursor.forget()
    done = yield from cursor.value(calls.arguments)
    cursor.forget()
    return done


def _end(calls: Calls, state: _Object) -> bool:
    if state.name is None:
        return False
    if not state.started:
        calls.start(state.name)
        calls.arguments(_plain("".join(state.early)))
    return True


def _plain(arguments: str) -> str:
    """Arguments that came as JSON text, or not at all, as an object."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    if value is None:
        return "{}"
    return value if isinstance(value, str) else arguments or "{}"


@dataclass(frozen=True, slots=True)
class MarkedJson:
    """Call objects behind a mark, such as `<tool_call>{…}</tool_call>`.

    `start` and `end` stand around one call, or, if `listed`, around a list of them. `signs`: any
    of them in a template shows that it teaches this format.
    """

    name: str
    start: str
    end: str = ""
    listed: bool = False
    gap: str = ""
    """Between the marks and the call, where calls are forced."""
    arguments: str = "arguments"
    also: tuple[str, ...] = ()
    """Other marks that begin a call as well."""
    opening: bool = False
    """Whether an answer that begins with a call object is a call, too."""
    signs: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.start, *self.also) if mark)

    @property
    def openings(self) -> tuple[str, ...]:
        return ("{",) if self.opening else ()

    @property
    def fixed(self) -> tuple[str, ...]:
        return (self.start, self.end, *self.also)

    def detect(self, template: str) -> bool:
        return any(sign in template for sign in self.signs or (self.start,))

    def read(self, cursor: Cursor, calls: Calls) -> Reading[None]:
        marked = None
        if self.marks:
            marked = yield from cursor.literal(*self.marks)
        yield from read_objects(cursor, calls, strict=marked is None)
        if self.end:
            begin = cursor.at
            yield from cursor.space()
            if not (yield from cursor.literal(self.end)):
                cursor.at = begin

    def grammar(self, tools: Sequence[Mapping[str, Any]], quote: Quote, many: bool) -> str:
        lines = []
        for number, tool in enumerate(tools):
            head = f'{{"name": {json.dumps(tool["function"]["name"])}, "{self.arguments}": '
            rule = rule_name(number)
            lines.append(f'{rule}: {quote(head)} {rule}_arguments "}}"')
            lines.append(f"{rule}_arguments: {inline_json(parameters_of(tool))}")
        lines.append("call: " + " | ".join(rule_name(i) for i in range(len(tools))))
        start, end = quote(self.start + self.gap), quote(self.gap + self.end if self.end else "")
        if self.listed:
            more = '(", " call)*' if many else ""
            return "\n".join([f'start: {start} "[" call {more} "]" {end}', *lines])
        between = "" if self.start else '"; "'
        more = f"({between} block)*" if many else ""
        return "\n".join([f"start: block {more}", f"block: {start} call {end}", *lines])
