"""What a grammar from outside may be, checked before any of it is compiled.

`llguidance` bounds its own work by fuel and by numbers of states and items, and gives an error when
they are used up. What it does not bound is a stretch of text that only one string satisfies (it
is followed to its end at once, so `(a{1000}){1000}` takes seconds and gigabytes), the divisor of
`multipleOf`, and an object of thousands of properties. These are refused here, and so is whatever
is nested too deeply for a parser.
"""

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ...base.errors import LlmcError

MAX_TEXT = 256 * 1024
"""Most characters of a grammar, schema, regular expression or list of choices."""
MAX_DEPTH = 60
"""Most levels of a JSON schema, and of the parentheses of a grammar."""
MAX_EXPANSION = 20_000
"""Most characters that a regular expression or a terminal matches once its bounded repeats are
written out."""
MAX_PROPERTIES = 1000
"""Most properties of one object of a schema."""
WHITE_SPACE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The only `x-guidance` that is accepted: JSON as Python and most chat templates write it. For
forced tool calls; without it a model that has nothing to say may write white space for ever."""
MAX_DIVISOR = 10_000
"""Most that the `multipleOf` of a schema may come to together (their least common multiple)."""

_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_LARK_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
_LARK_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"|/((?:[^/\\\n]|\\.)+)/|//[^\n]*|#[^\n]*')
_TERMINAL = re.compile(r"^\s*([A-Z_][A-Z0-9_]*)[^:\n\"/]*:", re.MULTILINE)
_RULE = re.compile(r"^\s*[?!]*[a-z_][\w-]*[^:\n\"/]*:", re.MULTILINE)


def refused(cause: str) -> LlmcError:
    """The error of a grammar that can't be used."""
    return LlmcError("LLMC-E0211", cause)


def check_text(text: str, what: str) -> None:
    """Raises E0211 if it is too long, or holds what no tokenizer's text can."""
    if len(text) > MAX_TEXT:
        raise refused(f"{what} has {len(text)} characters, of which {MAX_TEXT} are accepted")
    if "\0" in text or any(0xD800 <= ord(c) < 0xE000 for c in text if c > "\ud7ff"):
        raise refused(f"{what} holds a character that is none")


def check_regex(pattern: str) -> None:
    """Raises E0211 for a regular expression that is too large once written out."""
    size = regex_expansion(pattern)
    if size > MAX_EXPANSION:
        raise refused(
            f"a regular expression comes to {size:.3g} characters with its repeats written out, "
            f"of which {MAX_EXPANSION} are accepted"
        )


def regex_expansion(pattern: str) -> int:
    """How many characters a regular expression comes to if `x{3}` is written `xxx`."""
    at, total, last = 0, 0, 0
    outer: list[int] = []
    while at < len(pattern):
        char, repeat = pattern[at], _REPEAT.match(pattern, at)
        if repeat:
            most = max(int(number) for number in (*repeat.groups("0"), "1") if number)
            total, last, at = total + last * (most - 1), last * most, repeat.end()
            continue
        if char == "(":
            if re.match(r"\(\?[a-zA-Z]*x", pattern[at : at + 16]):
                raise refused("regular expressions in verbose mode, (?x), are not supported")
            outer.append(total)
            total = last = 0
        elif char == ")":
            if not outer:
                raise refused("a regular expression closes a group that it didn't open")
            last, total = max(total, 1), total + outer.pop()
        elif char not in "|*+?":
            at = _atom_end(pattern, at) - 1
            total, last = total + 1, 1
        if len(outer) > MAX_DEPTH:
            raise refused(f"a regular expression is nested more than {MAX_DEPTH} levels deep")
        at += 1
    return total + sum(outer)


def _atom_end(pattern: str, at: int) -> int:
    """Where the escape, class or character that begins at `at` ends."""
    if pattern[at] == "\\":
        if pattern[at + 1 : at + 2] in tuple("pPxuU") and pattern[at + 2 : at + 3] == "{":
            return pattern.find("}", at) + 1 or len(pattern)
        return at + 2
    if pattern[at] != "[":
        return at + 1
    depth, at = 1, at + 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and depth:
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 2 if pattern[at] == "\\" else 1
    return at


def parse_schema(schema: dict[str, Any] | str | bool) -> Any:
    """A JSON schema as an object, whether given as text or as one. E0211 if it is none."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        check_text(text, "the JSON schema")
        return json.loads(text)
    except RecursionError:
        raise refused(f"the JSON schema is nested more than {MAX_DEPTH} levels deep") from None
    except (ValueError, TypeError) as error:
        raise refused(f"the JSON schema is not JSON: {error}") from error


def check_schema(schema: Any) -> None:
    """Raises E0211 for a schema that is too deep, too wide, or has parts that are too complex."""
    divisor = 1
    for part in _objects(schema):
        if part.get("x-guidance", WHITE_SPACE) != WHITE_SPACE:
            raise refused("the key x-guidance is not accepted in a JSON schema")
        names = part.get("properties")
        if isinstance(names, dict) and len(names) > MAX_PROPERTIES:
            raise refused(f"an object of the schema has more than {MAX_PROPERTIES} properties")
        patterns = part.get("patternProperties")
        for pattern in [part.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
            if isinstance(pattern, str):
                check_regex(pattern)
        multiple = part.get("multipleOf")
        if isinstance(multiple, int | float) and not isinstance(multiple, bool):
            divisor = math.lcm(divisor, _digits(multiple) or 1)
        if divisor > MAX_DIVISOR:
            raise refused(f"multipleOf comes to {divisor}, of which {MAX_DIVISOR} are accepted")


def _digits(number: float) -> int:
    """A number without its point and the zeros behind it: 0.250 and 1e-9 give 25 and 1."""
    _, digits, exponent = Decimal(str(number)).normalize().as_tuple()
    if not isinstance(exponent, int):  # an infinity
        return MAX_DIVISOR + 1
    return int("".join(map(str, digits))) * 10 ** min(max(exponent, 0), 9)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object of a schema; E0211 if they are nested too deeply."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        yield from (part for part in level if isinstance(part, dict))
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise refused(f"the JSON schema is nested more than {MAX_DEPTH} levels deep")


def check_lark(text: str) -> None:
    """Raises E0211 for a Lark grammar with terminals or schemas that are too complex."""
    check_text(text, "the grammar")
    for found in re.finditer(r"%json\s*", text):
        try:
            check_schema(json.JSONDecoder().raw_decode(text, found.end())[0])
        except (ValueError, RecursionError) as error:
            raise refused(f"the grammar holds a schema that is not JSON: {error}") from error
    for found in _LARK_TEXT.finditer(text):
        if found.group(1):
            check_regex(found.group(1))
    _check_terminals(_LARK_TEXT.sub(lambda found: " " if found[0][0] in '"/' else "", text))


def _check_terminals(text: str) -> None:
    """Terminals that repeat terminals that repeat …: what their bounds multiply to."""
    starts = sorted(
        [(found.start(), found.end(), found.group(1)) for found in _TERMINAL.finditer(text)]
        + [(found.start(), found.end(), None) for found in _RULE.finditer(text)],
        key=lambda start: start[:2],
    )
    ends = [*(start for start, _, _ in starts[1:]), len(text)]
    bodies = {
        name: text[begin:end]
        for (_, begin, name), end in zip(starts, ends, strict=False)
        if name is not None
    }
    sizes: dict[str, int] = {}
    for _ in range(MAX_DEPTH):  # to the fixed point of grammars that aren't nested more deeply
        before = dict(sizes)
        for name, body in bodies.items():
            inner = [sizes.get(other, 1) for other in re.findall(r"[A-Z_][A-Z0-9_]*", body)]
            bounds = [
                max(int(number) for number in (*found.groups("1"), "1") if number)
                for found in _LARK_REPEAT.finditer(body)
            ]
            sizes[name] = math.prod(bounds) * max(inner, default=1)
            if sizes[name] > MAX_EXPANSION:
                raise refused(f"the terminal {name} repeats more than {MAX_EXPANSION} times")
        if sizes == before:
            return
    raise refused(f"terminals are nested more than {MAX_DEPTH} levels deep")
