"""Streams of server-sent events, and clients that leave.

One write for what is there at once, nothing per event but its bytes. A stream that its client
doesn't read for too long, or that the client has left, is told to stop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Stalls:
    """Watches writes: a stream whose client doesn't read for `seconds` is told to stop.

    One timer for all of them, so that a write costs two assignments.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._streams: set[EventStream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: "EventStream") -> None:
        """Watches a stream from now on."""
        self._streams.add(stream)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds / 4, self._look, loop)

    def remove(self, stream: "EventStream") -> None:
        """Watches it no more."""
        self._streams.discard(stream)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for stream in [*self._streams]:
            if stream.writing_since is None:
                continue
            if stream.seen_writing is not stream.writing_since:
                stream.seen_writing, stream.seen_at = stream.writing_since, now
            elif now - stream.seen_at >= self._seconds:
                stream.abandon()
        again = bool(self._streams)
        self._timer = loop.call_later(self._seconds / 4, self._look, loop) if again else None


class EventStream(Response):
    """Server-sent events. `events`: bytes of one or more whole events; `stop` ends their source."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], stop: Callable[[], None], stalls: Stalls
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self.events = events
        self._stop = stop
        self._stalls = stalls
        self._task: asyncio.Task[Any] | None = None
        self.writing_since: object | None = None
        """A new object for each write that hasn't returned yet."""
        self.seen_writing: object | None = None
        self.seen_at = 0.0

    def abandon(self) -> None:
        """Its client doesn't read: end the source, and the write that waits."""
        self._stop()
        if self._task is not None:
            self._task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._task = asyncio.current_task()
        self._stalls.add(self)
        leaving = asyncio.ensure_future(_left(receive, self._stop))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            message: dict[str, Any] = {"type": "http.response.body", "more_body": True}
            async for body in self.events:
                self.writing_since = body
                message["body"] = body
                await send(message)
                self.writing_since = None
            await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()
            self._stalls.remove(self)
            self._stop()
            await self.events.aclose()  # type: ignore[attr-defined]


async def _left(receive: Receive, stop: Callable[[], None]) -> None:
    """Calls `stop` when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stop()


class Attended:
    """While it is entered, a client that leaves ends the work: `stop` is called."""

    def __init__(self, receive: Receive, stop: Callable[[], None]) -> None:
        self._receive, self._stop = receive, stop

    async def __aenter__(self) -> None:
        self._leaving = asyncio.ensure_future(_left(self._receive, self._stop))

    async def __aexit__(self, *_: object) -> None:
        self._leaving.cancel()
