"""Request bodies: read within limits, and JSON that means one thing only.

Refused, with what is wrong: bodies that are too large or too slow, that are not JSON or not UTF-8,
nested too deeply, with a key twice in one object, with NaN, infinities, numbers beyond all range,
or with halves of characters (lone surrogates), which no text can hold.
"""

import asyncio
import json
import math
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from .error_objects import RequestError

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects. JSON schemas of tools need some; parsers recurse."""

_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)|([\[{])|([\]}])', re.DOTALL)
"""Matches from every quote on, also an unclosed one, so that it never looks at a byte twice."""
M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, *, max_bytes: int, seconds: float) -> Any:
    """The JSON value that a request brings. Errors: E0213, E0216, E0222, E0224."""
    _check_headers(request, max_bytes)
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, max_bytes)
    except TimeoutError as error:
        raise RequestError("LLMC-E0222", f"the body took more than {seconds:g} s") from error
    return parse_json(body)


def _check_headers(request: Request, max_bytes: int) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Anything else could be sent by any web page without asking the browser's user.
        raise RequestError("LLMC-E0224", "the content-type must be application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError("LLMC-E0224", "compressed bodies are not read")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError("LLMC-E0216", f"the body has more than {max_bytes} bytes")


async def _read(request: Request, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_json(body: bytes) -> Any:
    """The value of a JSON text; E0213 if it isn't one, or not a single one."""
    _check_depth(body)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
    except UnicodeDecodeError as error:
        raise RequestError("LLMC-E0213", "the body is not UTF-8") from error
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError("LLMC-E0213", f"the body is not JSON: {error}") from error
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RequestError("LLMC-E0213", "the body has half a character in it") from error
    return value


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _OUTSIDE_STRINGS.finditer(body):
        if match.lastindex == 1:
            depth += 1
            if depth > MAX_DEPTH:
                message = f"the body is nested more than {MAX_DEPTH} deep"
                raise RequestError("LLMC-E0213", message)
        elif match.lastindex == 2:
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RequestError("LLMC-E0213", f"an object has the key {twice[:80]!r} twice")
    return made


def _constant(name: str) -> float:
    raise RequestError("LLMC-E0213", f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RequestError("LLMC-E0213", f"the number {text[:40]} is out of range")
    return value


def _is_choice(part: str | int) -> bool:
    """Whether a part of a place names one of several types that a field may have: no field."""
    return isinstance(part, str) and (
        "[" in part or part in ("str", "int", "float", "bool") or part[:1].isupper()
    )


def validated(schema: type[M], value: Any) -> M:
    """`value` as an instance of a schema; E0213 naming the first field that is wrong."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not _is_choice(part))
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise RequestError("LLMC-E0213", message, param=where or None) from error
