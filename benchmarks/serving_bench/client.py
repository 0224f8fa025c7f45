"""An HTTP client for measuring: cheap, so that it leaves the cores to the server.

`Call` is one request on its own connection; all that it does while bytes come is to note when.
Answers are parsed afterwards. `Caller` asks one thing after another on a kept connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

_EVENT = re.compile(rb"data: (.*?)\r?\n\r?\n", re.DOTALL)
"""An event of a stream. Servers write each into one chunk, so framing never falls inside one."""


@dataclass(frozen=True)
class Event:
    """An event of a streamed answer: when its last byte came, and its JSON."""

    at: float
    data: dict[str, Any]

    @property
    def text(self) -> str:
        """The text that it brings, of a completion or of a chat."""
        choices = self.data.get("choices") or [{}]
        return choices[0].get("text") or choices[0].get("delta", {}).get("content") or ""

    @property
    def finish_reason(self) -> str | None:
        """Why the text ended, if this event says so."""
        choices = self.data.get("choices") or [{}]
        return choices[0].get("finish_reason")


@dataclass
class Answer:
    """What came back: bytes with the moments they came at, by `perf_counter`."""

    started: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    cut: bool = False
    """Whether this client hung up before the end."""

    @cached_property
    def raw(self) -> bytes:
        """All bytes, headers included."""
        return b"".join(piece for _, piece in self.pieces)

    @cached_property
    def status(self) -> int:
        """The HTTP status; 0 if there was no answer."""
        words = self.raw[:64].split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    @cached_property
    def events(self) -> list[Event]:
        """The events of a streamed answer, `[DONE]` left out."""
        ends, total = [], 0
        for at, piece in self.pieces:
            total += len(piece)
            ends.append((total, at))
        found, place = [], 0
        for match in _EVENT.finditer(self.raw):
            while ends[place][0] < match.end():
                place += 1
            if match[1] != b"[DONE]":
                found.append(Event(ends[place][1], json.loads(match[1])))
        return found

    @property
    def complete(self) -> bool:
        """Whether the stream said that it is done."""
        return b"data: [DONE]" in self.raw

    @cached_property
    def body(self) -> dict[str, Any]:
        """The JSON of an answer that is no stream."""
        head, _, body = self.raw.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = _unchunked(body)
        return json.loads(body)

    @property
    def token_times(self) -> list[float]:
        """When each piece of text came, which is a token where none is held back."""
        return [event.at for event in self.events if event.text]

    @property
    def text(self) -> str:
        """All of the text of a streamed answer."""
        return "".join(event.text for event in self.events)

    @property
    def usage(self) -> dict[str, int]:
        """The usage that the last event or the body tells."""
        if self.events:
            return next((e.data["usage"] for e in reversed(self.events) if e.data.get("usage")), {})
        return self.body.get("usage") or {}


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size.split(b";")[0], 16)
        if count == 0:
            break
        parts.append(rest[:count])
        body = rest[count + 2 :]
    return b"".join(parts)


def http_request(path: str, body: Mapping[str, Any] | bytes) -> bytes:
    """A POST that asks the server to close the connection behind its answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


class _Reading(asyncio.Protocol):
    """Sends the request and notes what comes, until the server closes or `until` says enough."""

    def __init__(
        self, request: bytes, answer: Answer, until: Callable[[Answer], bool] | None
    ) -> None:
        self.request, self.answer, self.until = request, answer, until
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.answer.pieces.append((perf_counter(), data))
        if self.until is not None and self.until(self.answer):
            self.hang_up()

    def hang_up(self) -> None:
        """Leave without waiting for the rest, as a client that crashes does."""
        self.answer.cut = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.answer.ended = perf_counter()
        if not self.done.done():
            self.done.set_result(self.answer)


async def post(
    port: int,
    path: str,
    body: Mapping[str, Any] | bytes,
    *,
    share: float = 1.0,
    until: Callable[[Answer], bool] | None = None,
    leave_after: float | None = None,
) -> Answer:
    """One request on its own connection, read until the server closes it.

    `share`: send only so much of the request. `until`: hang up as soon as it holds. `leave_after`:
    hang up after so many seconds. Cancelling the task hangs up, too. ConnectionError if there is
    no connection.
    """
    answer = Answer(perf_counter())
    loop = asyncio.get_running_loop()
    request = http_request(path, body)
    request = request[: round(len(request) * share)]
    _, reading = await loop.create_connection(
        lambda: _Reading(request, answer, until), "127.0.0.1", port
    )
    try:
        async with contextlib.AsyncExitStack() as stack:
            if leave_after is not None:
                handle = loop.call_later(leave_after, reading.hang_up)
                stack.callback(handle.cancel)
            return await reading.done
    except asyncio.CancelledError:
        reading.hang_up()
        raise


async def all_of(calls: list[Awaitable[Answer]]) -> list[Answer]:
    """The answers to calls that run side by side."""
    return list(await asyncio.gather(*calls))


class Caller:
    """One connection, kept open, for calls that follow one another."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Seconds until the whole answer was read, and its JSON; RuntimeError unless status 200."""
        data = json.dumps(body).encode()
        began = perf_counter()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        took = perf_counter() - began
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}: {text[:300]!r}")
        return took, json.loads(text)

    def get(self, path: str) -> str:
        """The text at a path."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def close(self) -> None:
        self._connection.close()


def metric(text: str, name: str) -> float:
    """The sum of a metric's samples in a Prometheus text; KeyError if it has none."""
    pattern = re.compile(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", re.MULTILINE)
    found = pattern.findall(text)
    if not found:
        raise KeyError(name)
    return sum(float(value) for value in found)
