"""One generation as a stream of chunks: tokens are read from the engine and become text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from .engine.engine import FinishReason, Request
from .text.output import OutputText

if TYPE_CHECKING:
    from .generate import Model


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the output: its text, the ids it came with, and why it ended if it is the last."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """How one generation went. `ttft_ms`: from the call to the first token; `tokens_per_s`: the
    tokens after the first one over the time they took (0 if there was only one)."""

    prompt_tokens: int
    output_tokens: int
    ttft_ms: float
    tokens_per_s: float


class Stream(Iterator[Chunk]):
    """The chunks of one generation, computed as they are asked for. `close` ends it early."""

    def __init__(self, model: "Model", request: Request, stop: Sequence[str], began: float) -> None:
        self._ended = True  # until everything is in place
        self._model, self._request = model, request
        self._output = OutputText(model.tokenizer, stop) if model.has_tokenizer else None
        self._read = 0
        self._began, self._first, self._last = began, 0.0, 0.0
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._ended = False

    @property
    def prompt_token_ids(self) -> list[int]:
        """The ids that the prompt became."""
        return list(self._request.prompt)

    @property
    def token_ids(self) -> list[int]:
        """The ids given out so far, the one that ended the text included."""
        return self._request.output[: self._read]

    @property
    def stats(self) -> Stats:
        """Timings of what was read so far."""
        count, seconds = self._read, self._last - self._first
        speed = (count - 1) / seconds if count > 1 and seconds > 0 else 0.0
        ttft = (self._first - self._began) * 1e3 if count else 0.0
        return Stats(len(self._request.prompt), count, ttft, speed)

    def __next__(self) -> Chunk:
        if self._ended:
            raise StopIteration
        text, first = "", self._read
        while not text and self.finish_reason is None:
            text += self._advance()
        self.text += text
        self._ended = self.finish_reason is not None
        if self._ended:
            self._model.stats = self.stats
        return Chunk(text, tuple(self._request.output[first : self._read]), self.finish_reason)

    def _advance(self) -> str:
        """Reads one more token, computing it if need be, and returns the text it brought."""
        request = self._request
        if self._read == len(request.output) and request.finish_reason is None:
            self._model._step_until(lambda: self._read < len(request.output))
        if self._read == len(request.output):
            return self._finish(request.finish_reason or "aborted")
        token = request.output[self._read]
        self._read += 1
        self._last = perf_counter()
        self._first = self._first or self._last
        last = self._read == len(request.output) and request.finish_reason is not None
        ended = last and request.finish_reason == "stop"
        text = "" if ended or self._output is None else self._output.push(token)
        if self._stopped:
            self._model._finish(request, "stop")
            self.finish_reason = "stop"
            return text
        return text + self._finish(request.finish_reason) if last else text

    @property
    def _stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._output is not None and self._output.stopped

    def _finish(self, reason: FinishReason | None) -> str:
        """Sets the reason and returns what was still held back."""
        rest = self._output.flush() if self._output is not None else ""
        self.finish_reason = "stop" if self._stopped else reason
        return rest

    def close(self) -> None:
        """Ends the generation if it isn't complete; its cache is free again."""
        self._model._finish(self._request, "aborted")
        self._ended = True

    def __del__(self) -> None:
        # May run at any time, even within a step: so the model is only told.
        if not self._ended:
            self._model._abandoned.append(self._request)
