"""One generation as chunks: what the engine tells about its requests, put together for a reader.

`Reading` makes chunks of deltas and keeps what was read; `Stream` is the reader that a thread
iterates over. (`async_engine.py` has the one for tasks.) The engine's thread computes ahead
of the reader, so a slow reader delays nobody.
"""

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import NamedTuple

from msgspec import Struct, field

from ..engine.loop.thread import EngineThread, again
from ..engine.request import Delta, FinishReason, Request, TokenLogprob


class Chunk(Struct, frozen=True):
    """A piece of the output: its text, the ids it came with, and why it ended if it is the last.

    `index`: which of the `n` continuations it belongs to. `logprobs`: one for each id, if asked.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Choice(Struct):
    """What was read of one continuation so far. `stop_reason`: the stop id or string it met."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Stats(NamedTuple):
    """How one generation went. `ttft_ms`: from the call to the first token; `tokens_per_s`: the
    tokens after the first one over the time they took (0 if there was only one). `cached_tokens`:
    prompt tokens that were found in the cache. Of several continuations: the first's times, and
    the output tokens of all."""

    prompt_tokens: int
    output_tokens: int
    ttft_ms: float
    tokens_per_s: float
    cached_tokens: int = 0


class Reading:
    """The chunks of the requests of one generation. `began`: `time.monotonic` of the call. Without
    requests it is one that hasn't begun."""

    def __init__(self, requests: Sequence[Request], began: float) -> None:
        self.requests = tuple(requests)
        self.choices = tuple(Choice() for _ in requests) or (Choice(),)
        self._began = began
        self._unfinished = len(requests)
        self._index = {request: index for index, request in enumerate(requests)}

    @property
    def ended(self) -> bool:
        """Whether the last chunk of every continuation was read, or reading was given up."""
        return not self._unfinished

    def give_up(self) -> None:
        """Nothing more is read."""
        self._unfinished = 0

    def take(self, delta: Delta) -> Chunk:
        """The chunk of a delta. Raises the error of a request that ended with one."""
        request, token_ids = delta.request, delta.token_ids
        text, finish_reason = delta.text, delta.finish_reason
        index = self._index[request]
        choice, logprobs = self.choices[index], ()
        if finish_reason is not None:
            self._unfinished -= 1
            choice.finish_reason, choice.stop_reason = finish_reason, request.stop_reason
            if request.error is not None:
                raise again(request.error)
        if request.params.logprobs is not None:
            first = len(choice.token_ids)
            logprobs = tuple(request.logprobs[first : first + len(token_ids)])
            choice.logprobs += logprobs
        choice.token_ids += token_ids
        choice.text += text
        return Chunk(text, token_ids, finish_reason, index, logprobs)

    @property
    def stats(self) -> Stats:
        """Times as the engine saw them; tokens are those that were read."""
        if not self.requests:
            return Stats(0, 0, 0.0, 0.0)
        first, timings = self.requests[0], self.requests[0].timings
        seconds, later = timings.last_token - timings.first_token, len(first.output) - 1
        return Stats(
            prompt_tokens=len(first.prompt),
            output_tokens=sum(len(choice.token_ids) for choice in self.choices),
            ttft_ms=max(0.0, timings.first_token - self._began) * 1e3,
            tokens_per_s=later / seconds if later > 0 and seconds > 0 else 0.0,
            cached_tokens=first.cached_tokens,
        )


class ReadingProperties:
    """What sync and async streams say about what was read. With `n` > 1 the plain properties are
    those of the first continuation; `choices` has all."""

    _reading: Reading

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was read of each continuation."""
        return self._reading.choices

    @property
    def text(self) -> str:
        """The text given out so far."""
        return self._reading.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """The ids given out so far, the one that ended the text included."""
        return self._reading.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None before the last chunk was read."""
        return self._reading.choices[0].finish_reason

    @property
    def prompt_token_ids(self) -> list[int]:
        """The ids that the prompt became."""
        return [token for request in self._reading.requests[:1] for token in request.prompt]

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None]:
        """One for each prompt token, None for the first, if `prompt_logprobs` asked for them;
        complete when the first chunk is there."""
        return [p for request in self._reading.requests[:1] for p in request.prompt_logprobs]

    @property
    def stats(self) -> Stats:
        """How it went so far."""
        return self._reading.stats


class _QueueSink:
    """Puts the deltas where a thread waits for them."""

    __slots__ = ("push",)

    def __init__(self, queue: SimpleQueue[Delta]) -> None:
        self.push = queue.put


class Stream(ReadingProperties, Iterator[Chunk]):
    """The chunks of one generation, by one thread at a time. `close` ends it early, and so does
    dropping it; a program that fails raises its error from `next`. `ended` gets the stats of one
    that was read to its end."""

    def __init__(
        self,
        thread: EngineThread,
        requests: Sequence[Request],
        began: float,
        ended: Callable[[Stats], None],
    ) -> None:
        self._thread, self._ended = thread, ended
        self._reading = Reading(requests, began)
        self._queue: SimpleQueue[Delta] = SimpleQueue()
        sink = _QueueSink(self._queue)
        for request in requests:  # if one is refused, dropping this stream cancels those before it
            thread.submit(request, sink)

    def __next__(self) -> Chunk:
        if self._reading.ended:
            raise StopIteration
        delta = self._queue.get()
        try:
            return self._reading.take(delta)
        except BaseException:
            self.close()
            raise
        finally:
            if self._reading.ended:
                self._ended(self.stats)

    def close(self) -> None:
        """Ends the generation if it isn't complete; its cache is free before the next step."""
        if not self._reading.ended:
            self._reading.give_up()
            for request in self._reading.requests:
                self._thread.cancel(request)

    def __del__(self) -> None:
        # May run at any time on any thread, even the engine's own: cancelling takes no locks.
        if hasattr(self, "_reading"):
            self.close()
