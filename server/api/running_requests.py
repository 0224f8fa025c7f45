"""The engine's requests of one HTTP request, read together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError
from ...runtime.engine.request import Delta, Request
from ..connection.error_objects import RequestError
from ..served_models import Served

if TYPE_CHECKING:
    from ...runtime.api.async_engine import AsyncStream


class _Whole:
    """Gathers the text of a request on the engine's thread; the event loop hears of its end only.

    Waking the event loop after each step would cost more than all else that an answer at once
    needs, and would take the time from the program.
    """

    __slots__ = ("_loop", "_pieces", "_text")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: list[str] = []
        self._text: asyncio.Future[str] = self._loop.create_future()

    def push(self, delta: Delta) -> None:
        self._pieces.append(delta.text)
        if delta.finish_reason is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self._text.done():
            self._text.set_result("".join(self._pieces))

    async def text(self) -> str:
        return await self._text


class Running:
    """Requests under way, to be read as they come if `streamed`, else as a whole. What the engine
    refuses is raised here, and nothing is left running."""

    def __init__(self, served: Served, requests: Sequence[Request], *, streamed: bool) -> None:
        served.take(len(requests))
        self.served, self.requests = served, requests
        self._streams: list[AsyncStream] = []
        self._wholes: list[_Whole] = []
        self._open = True
        try:
            for request in requests:
                if streamed:
                    self._streams.append(served.engine.submit(request))
                else:
                    whole = _Whole()
                    served.model.thread.submit(request, whole)
                    self._wholes.append(whole)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends what hasn't ended, and gives back its room; idempotent."""
        if self._open:
            self._open = False
            for stream in self._streams:
                stream.cancel()
            for request in self.requests[: len(self._wholes)]:
                self.served.model.thread.cancel(request)
            self.served.give_back(len(self.requests))

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(number of the request, its news), until all have ended. Errors: how one ended badly."""
        if len(self._streams) == 1:
            async for delta in self._streams[0]:
                if delta.finish_reason is not None:
                    check_end(delta.request)
                yield 0, delta
            return
        queue: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()

        async def read(number: int) -> None:
            async for delta in self._streams[number]:
                queue.put_nowait((number, delta))
            queue.put_nowait(None)

        readers = [asyncio.ensure_future(read(i)) for i in range(len(self._streams))]
        left = len(readers)
        try:
            while left:
                news = await queue.get()
                if news is None:
                    left -= 1
                    continue
                if news[1].finish_reason is not None:
                    check_end(news[1].request)
                yield news
        finally:
            for reader in readers:
                reader.cancel()

    async def texts(self) -> list[str]:
        """The whole text of each request. Errors: how one ended badly."""
        texts = [await whole.text() for whole in self._wholes]
        for request in self.requests:
            check_end(request)
        return texts

    def usage(self, prompt_tokens: int) -> dict[str, Any]:
        """What OpenAI's interface says about the tokens of a request."""
        output = sum(len(request.output) for request in self.requests)
        cached = sum(r.cached_tokens for r in self.requests if r.follows is None)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output,
            "total_tokens": prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def check_end(request: Request) -> None:
    """Raises how a request ended, unless it ended well."""
    reason = request.finish_reason
    if reason in ("stop", "length"):
        return
    if reason == "error":
        raise request.error or LlmcError("LLMC-E0100", "the request failed")
    if reason == "timeout":
        raise RequestError("LLMC-E0223", "the request took longer than it may")
    raise RequestError("LLMC-E0220", "the request was ended before it was complete")
