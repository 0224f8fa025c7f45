"""The engine for asyncio: requests submitted and read by tasks of any number of event loops.

    async with llmc.AsyncEngine(llmc.load("model.llmc")) as engine:
        async for chunk in engine.generate("Why is the sky blue?", max_tokens=64):
            print(chunk.text, end="")

All deltas of a step that belong to one event loop go over to it in one call. A reader that goes
away ends its request: its task cancelled, its stream closed, or dropped.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Unpack
from weakref import WeakKeyDictionary, ref

from ..engine.loop.thread import EngineThread
from ..engine.request import Delta, FinishReason, Request
from .generation_options import GRAMMARS, GenerateOptions, check_options
from .stream import Chunk, Reading, ReadingProperties

if TYPE_CHECKING:
    from .model import Model, Prompt

LONG_PROMPT = 4_000
"""Characters from which a prompt is encoded on another thread: about a millisecond's work."""


class _Mailbox:
    """The deltas of one step for one event loop, which get there in one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: EngineThread) -> None:
        self._loop, self._thread = ref(loop), thread
        self.held: list[tuple[_LoopSink, Delta]] = []

    def flush(self) -> None:
        held, self.held = self.held, []
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(_deliver, held)
                return
        except RuntimeError:  # it is closed
            pass
        for _, delta in held:  # nobody reads them any more
            self._thread.cancel(delta.request)


def _deliver(held: "list[tuple[_LoopSink, Delta]]") -> None:
    """On the event loop: hands deltas to the streams and wakes who waits for them."""
    for sink, delta in held:
        sink.deltas.append(delta)
        waiter = sink.waiter
        if waiter is not None:
            sink.waiter = None
            if not waiter.done():
                waiter.set_result(None)


class _LoopSink:
    """Deltas on their way to one stream, which the engine doesn't know: so it can be dropped."""

    __slots__ = ("deltas", "mailbox", "waiter")

    def __init__(self, mailbox: _Mailbox) -> None:
        self.mailbox = mailbox
        self.deltas: deque[Delta] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def push(self, delta: Delta) -> None:
        self.mailbox.held.append((self, delta))

    async def get(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> Delta | None:
        """The next delta; None if none came within `timeout` seconds."""
        if not self.deltas:
            waiter = self.waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, _expire, waiter)
            try:
                await waiter
            finally:
                self.waiter = None
                if timer is not None:
                    timer.cancel()
        return self.deltas.popleft() if self.deltas else None


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class AsyncStream(AsyncIterator[Delta]):
    """The deltas of requests, read by one task at a time, each's up to that with a finish reason.

    A task that is cancelled while it waits here cancels the request, and so do `aclose` and
    dropping the stream. Made by `AsyncEngine.submit`.
    """

    def __init__(
        self, thread: EngineThread, mailbox: _Mailbox, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._thread, self._loop = thread, loop
        self._sink = _LoopSink(mailbox)
        self._open: dict[Request, None] = {}

    def _submit(self, request: Request) -> None:
        self._open[request] = None
        try:
            self._thread.submit(request, self._sink)
        except BaseException:
            self._open.pop(request, None)
            raise

    async def __anext__(self) -> Delta:
        delta = await self.get()
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def get(self, timeout: float | None = None) -> Delta | None:
        """The next delta; None after the last one, or if none comes within `timeout` seconds.

        Unlike a cancellation from outside, the timeout leaves the request alone: `ended` tells
        which it was. (A server sends a sign of life then.)
        """
        if not self._open:
            return None
        try:
            delta = await self._sink.get(self._loop, timeout)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if delta is not None and delta.finish_reason is not None:
            self._open.pop(delta.request, None)
        return delta

    @property
    def ended(self) -> bool:
        """Whether the last delta was read, or reading was given up."""
        return not self._open

    def cancel(self, reason: FinishReason = "aborted") -> None:
        """Ends what hasn't ended; nothing more is read. Any thread, any time, idempotent."""
        requests, self._open = self._open, {}
        for request in requests:
            self._thread.cancel(request, reason)

    async def aclose(self) -> None:
        """`cancel`, for `contextlib.aclosing`."""
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.cancel()


class AsyncTextStream(ReadingProperties, AsyncIterator[Chunk]):
    """The chunks of one generation, read by one task at a time; as `Stream`, for asyncio.

    Made by `AsyncEngine.generate`. What is wrong with a prompt that is encoded on another thread
    raises when the first chunk is read.
    """

    def __init__(self, model: "Model", stream: AsyncStream, began: float) -> None:
        self._model, self._stream, self._began = model, stream, began
        self._reading = Reading((), began)
        self._preparing: asyncio.Future[list[Request]] | None = None
        self._refused: Exception | None = None
        self._closed = False

    def _start(self, requests: list[Request]) -> None:
        self._reading = Reading(requests, self._began)
        for request in requests:
            self._stream._submit(request)

    def _start_when(self, preparing: "asyncio.Future[list[Request]]") -> None:
        """Starts when its requests are there, unless it is dropped before."""
        self._preparing, this = preparing, ref(self)

        def start(done: "asyncio.Future[list[Request]]") -> None:
            stream = this()
            if done.cancelled() or done.exception() or stream is None or stream._closed:
                return
            try:
                stream._start(done.result())
            except Exception as error:
                stream._refused = error

        preparing.add_done_callback(start)

    async def __anext__(self) -> Chunk:
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._preparing is not None:
                await self._preparing
                self._preparing = None
            if self._refused is not None:
                raise self._refused
            delta = await self._stream.get()
            if delta is None:
                raise StopAsyncIteration
            chunk = self._reading.take(delta)
        except BaseException:
            self.cancel()
            raise
        if self._reading.ended:
            self._closed = True
            self._model.keep_stats(self.stats)
        return chunk

    def cancel(self) -> None:
        """Ends the generation if it isn't complete; nothing more is read."""
        self._closed = True
        self._stream.cancel()

    async def aclose(self) -> None:
        """`cancel`, for `contextlib.aclosing`."""
        self.cancel()


class AsyncEngine:
    """A model for asyncio. Its streams are made and read on the event loop that runs; several
    loops may use one engine, and the model's own `generate` works beside it."""

    def __init__(self, model: "Model") -> None:
        self.model = model
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
            WeakKeyDictionary()
        )
        self._making = Lock()
        self._is_warm = False
        """Whether a text was encoded before: the first one waits for tokenizer and template."""

    def _stream(self) -> AsyncStream:
        loop = asyncio.get_running_loop()
        with self._making:
            mailbox = self._mailboxes.get(loop)
            if mailbox is None:
                mailbox = self._mailboxes[loop] = _Mailbox(loop, self.model.thread)
        return AsyncStream(self.model.thread, mailbox, loop)

    def submit(self, *requests: Request) -> AsyncStream:
        """Queues requests, as `Model.make_request` makes them, whose deltas are read from one
        stream. Errors as `EngineThread.submit` has them; then none of them is left running."""
        stream = self._stream()
        for request in requests:  # dropping the stream cancels those before a refused one
            stream._submit(request)
        return stream

    def generate(self, prompt: "Prompt", **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """Continues a prompt: options and errors of `Model.generate`.

        Another thread encodes text that takes long, and the first of all; it compiles grammars.
        """
        began = monotonic()
        check_options(options)
        stream = AsyncTextStream(self.model, self._stream(), began)
        if self._is_quick(prompt, options):
            stream._start(self.model.make_requests(prompt, **options))
        else:
            loop = asyncio.get_running_loop()
            stream._start_when(loop.run_in_executor(None, self._prepare, prompt, options))
        return stream

    def _is_quick(self, prompt: "Prompt", options: GenerateOptions) -> bool:
        if any(options.get(name) is not None for name in GRAMMARS):
            return False
        is_text = isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Mapping))
        return not is_text or (self._is_warm and len(str(prompt)) < LONG_PROMPT)

    def _prepare(self, prompt: "Prompt", options: GenerateOptions) -> list[Request]:
        requests = self.model.make_requests(prompt, **options)
        self._is_warm = True
        return requests

    async def close(self, *, drain: bool = False, timeout: float | None = None) -> bool:
        """Closes the model, while the event loop goes on: see `Model.close`."""

        def close() -> bool:
            return self.model.close(drain=drain, timeout=timeout)

        return await asyncio.get_running_loop().run_in_executor(None, close)

    async def __aenter__(self) -> "AsyncEngine":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
