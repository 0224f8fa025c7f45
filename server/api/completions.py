"""`/v1/completions`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import time
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from ...base.errors import LlmcError
from ...runtime.api.generation_options import RequestOptions
from ...runtime.engine.request import Request as EngineRequest
from ..config import ServerConfig
from ..connection.error_objects import RequestError, unsupported
from ..connection.server_sent_events import DONE, TextEvent, event, failure
from ..served_models import Served
from .generating_endpoint import Asked, generate
from .logprobs import CompletionLogprobs, NewLogprobs
from .prompt_encoding import encode
from .protocol.completion import CompletionRequest
from .request_limits import check_count, output_limit
from .running_requests import Running

DEFAULT_TOKENS = 16
"""What OpenAI's interface generates when a request doesn't say how much."""


class _Prompts:
    """The prompts of a body, texts or ids; `ids` of all of them when they are prepared."""

    def __init__(self, served: Served, prompt: str | list[Any], *, special: bool) -> None:
        self._served, self._special = served, special
        alone = isinstance(prompt, str) or isinstance(prompt[0], int)
        self._prompts: list[Any] = [prompt] if alone else list(prompt)
        self.ids: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._prompts)

    async def prepare(self, options: RequestOptions) -> list[list[int]]:
        """The ids of each prompt."""
        if isinstance(self._prompts[0], str):
            texts = (encode(self._served, text, special=self._special) for text in self._prompts)
            self.ids = list(await asyncio.gather(*texts))
        else:
            self.ids = self._prompts
        return self.ids


async def completions(http: Request) -> Response:
    """Continues one or several prompts, at once or as a stream of server-sent events."""
    return await generate(http, CompletionRequest, _read, _Answer)


def _read(body: CompletionRequest, served: Served, config: ServerConfig) -> Asked[_Prompts]:
    _check(body, config)
    prompts = _Prompts(served, body.prompt, special=body.add_special_tokens is not False)
    each = body.best_of or body.n or 1
    check_count(len(prompts) * each, config, "prompt")
    logprobs = body.logprobs
    if logprobs is None and each > (body.n or 1):
        logprobs = 0  # the best ones are those with the highest
    return Asked(
        prompts,
        _max_tokens(body),
        n=each,
        logprobs=logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        form=body.response_format,
    )


def _max_tokens(body: CompletionRequest) -> int | None:
    if body.max_tokens is None and body.n_predict is None:
        return DEFAULT_TOKENS
    limit = output_limit(max_tokens=body.max_tokens, n_predict=body.n_predict)
    return limit if limit is None else max(1, limit)


def _check(body: CompletionRequest, config: ServerConfig) -> None:
    check_count(body.best_of or body.n or 1, config)
    if body.best_of is not None:
        if body.best_of < (body.n or 1):
            raise unsupported("best_of", "can't be less than n")
        if body.stream and body.best_of > (body.n or 1):
            raise unsupported("best_of", "and stream exclude one another")
    if body.stream_options is not None and not body.stream:
        raise unsupported("stream_options", "needs stream")
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("LLMC-E0205", "max_tokens cannot be 0", param="max_tokens")


class _Answer:
    """One answer of this endpoint."""

    def __init__(self, body: CompletionRequest, running: Running, prompts: _Prompts) -> None:
        self._body, self._running, self._prompts = body, running, prompts
        self._tokenizer = running.served.model.tokenizer
        self._each = body.best_of or body.n or 1
        self._echo = bool(body.echo)
        self._nothing_new = body.max_tokens == 0
        options = body.stream_options
        self._usage = options is not None and bool(options.include_usage)
        self._prompt_tokens = sum(len(prompt) for prompt in prompts.ids)
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time()),
            "model": running.served.name,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer at once."""
        texts = await self._running.texts()
        chosen = [i for p in range(len(self._prompts)) for i in self._best(p)]
        return {
            **self._head,
            "choices": [self._choice(i, n, texts[n]) for i, n in enumerate(chosen)],
            "usage": self._usage_content(),
        }

    def _usage_content(self) -> dict[str, Any]:
        usage = self._running.usage(self._prompt_tokens)
        if self._nothing_new:
            usage.update(completion_tokens=0, total_tokens=self._prompt_tokens)
        return usage

    def _best(self, prompt: int) -> list[int]:
        """Numbers of the requests that are shown of this prompt's."""
        numbers = list(range(prompt * self._each, (prompt + 1) * self._each))
        wanted = self._body.n or 1
        if wanted == self._each:
            return numbers

        def mean(number: int) -> float:
            found = self._running.requests[number].logprobs
            return sum(one.logprob for one in found) / max(1, len(found))

        return sorted(numbers, key=mean, reverse=True)[:wanted]

    def _choice(self, index: int, number: int, text: str) -> dict[str, Any]:
        request = self._running.requests[number]
        logprobs = None
        if self._body.logprobs is not None:
            builder = self._logprobs()
            tokens, found = [*self._echoed(request)], [*self._echoed_logprobs(request)]
            echoed = len(tokens)
            if not self._nothing_new:
                tokens += request.output
                found += request.logprobs
            logprobs = builder.entries(tokens, found, echoed=echoed)
        text = "" if self._nothing_new else text
        reason = "length" if self._nothing_new else request.finish_reason
        return {
            "index": index,
            "text": self._prefix(request) + text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _logprobs(self) -> CompletionLogprobs:
        keeps = self._body.skip_special_tokens is False
        return CompletionLogprobs(self._tokenizer, keep_special=keeps)

    def _echoed(self, request: EngineRequest) -> Sequence[int]:
        return request.prompt if self._echo else ()

    def _echoed_logprobs(self, request: EngineRequest) -> Sequence[Any]:
        return request.prompt_logprobs if self._echo else ()

    def _prefix(self, request: EngineRequest) -> str:
        return self._tokenizer.decode(request.prompt) if self._echo else ""

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as it comes. An error under way is an event."""
        requests = self._running.requests
        plain = [
            TextEvent(self._chunk(i, TextEvent.HOLE, None, None)) for i in range(len(requests))
        ]
        builders = [self._logprobs() for _ in requests]
        news = [NewLogprobs(request) for request in requests]
        begun = [not self._echo] * len(requests)
        try:
            async for i, delta in self._running.deltas():
                text = "" if self._nothing_new else delta.text
                ended, logprobs = delta.finish_reason, None
                tokens, found = news[i].take(len(delta.token_ids))
                if self._nothing_new:
                    tokens, found = [], []
                echoed = 0
                if not begun[i]:
                    begun[i], echoed = True, len(requests[i].prompt)
                    text = self._prefix(requests[i]) + text
                    tokens = [*requests[i].prompt, *tokens]
                    found = [*requests[i].prompt_logprobs, *found]
                if self._body.logprobs is not None:
                    logprobs = builders[i].entries(tokens, found, echoed=echoed)
                elif ended is None:
                    if text:
                        yield plain[i](text)
                    continue
                reason = "length" if ended and self._nothing_new else ended
                yield event(self._chunk(i, text, logprobs, reason))
            if self._usage:
                yield event({**self._head, "choices": [], "usage": self._usage_content()})
        except LlmcError as error:
            yield failure(error)
        yield DONE

    def _chunk(self, index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return {**self._head, "choices": [choice], **usage}
