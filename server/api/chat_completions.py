"""`/v1/chat/completions`."""

from collections.abc import AsyncIterator
from time import time
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from ...base.errors import LlmcError
from ..config import ServerConfig
from ..connection.error_objects import unsupported
from ..connection.server_sent_events import DONE, TextEvent, event, failure
from ..served_models import Served
from .chat_prompt import ChatPrompts, rendering_of
from .generating_endpoint import Asked, generate
from .logprobs import NewLogprobs, chat_entries
from .protocol.chat import ChatRequest
from .request_limits import check_count, output_limit
from .running_requests import Running
from .template_variables import template_variables
from .tool_choice import tools_of


async def chat_completions(http: Request) -> Response:
    """Answers a chat, at once or as a stream of server-sent events."""
    return await generate(http, ChatRequest, _read, _Answer)


def _read(body: ChatRequest, served: Served, config: ServerConfig) -> Asked[ChatPrompts]:
    _check(body, config)
    tools = tools_of(served, body.tools, body.tool_choice, body.parallel_tool_calls)
    variables = template_variables(
        served,
        body,
        tools=tools.offered is not None,
        effort=body.reasoning_effort,
        verbosity=body.verbosity,
    )
    prompts = ChatPrompts(served, body.messages, tools, rendering_of(body, variables))
    return Asked(
        prompts,
        output_limit(
            max_completion_tokens=body.max_completion_tokens,
            max_tokens=body.max_tokens,
            n_predict=body.n_predict,
        ),
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        form=body.response_format,
    )


def _check(body: ChatRequest, config: ServerConfig) -> None:
    """E0215 for what contradicts itself or can't be done."""
    if body.modalities not in (None, ["text"]):
        raise unsupported("modalities", "can only be text")
    check_count(body.n or 1, config)
    if body.top_logprobs is not None and not body.logprobs:
        raise unsupported("top_logprobs", "needs logprobs")
    if body.stream_options is not None and not body.stream:
        raise unsupported("stream_options", "needs stream")


class _Answer:
    """One answer of this endpoint."""

    def __init__(self, body: ChatRequest, running: Running, prompts: ChatPrompts) -> None:
        self._running = running
        self._texts = [prompts.reader() for _ in running.requests]
        self._tokenizer = running.served.model.tokenizer
        self._logprobs = [NewLogprobs(r) for r in running.requests] if body.logprobs else None
        options = body.stream_options
        self._usage = options is not None and bool(options.include_usage)
        self._prompt_tokens = len(running.requests[0].prompt)
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time()),
            "model": running.served.name,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer at once."""
        texts = await self._running.texts()
        return {
            **self._head,
            "choices": [self._choice(i, text) for i, text in enumerate(texts)],
            "usage": self._running.usage(self._prompt_tokens),
        }

    def _choice(self, number: int, text: str) -> dict[str, Any]:
        request, reader = self._running.requests[number], self._texts[number]
        message = reader.message(text)
        logprobs = None
        if self._logprobs is not None:
            entries = chat_entries(self._tokenizer, request.logprobs)
            logprobs = {"content": entries, "refusal": None}
        return {
            "index": number,
            "message": {"role": "assistant", "refusal": None, **message},
            "logprobs": logprobs,
            "finish_reason": reader.finish_reason(request),
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as it comes. An error under way is an event."""
        plain = [self._plain_event(i) for i in range(len(self._texts))]
        started = [False] * len(self._texts)
        try:
            async for number, delta in self._running.deltas():
                parts = []
                if not started[number]:
                    started[number] = True
                    parts.append(self._event(number, {"role": "assistant", "content": ""}))
                reader = self._texts[number]
                if reader.is_plain and self._logprobs is None:
                    if delta.text:
                        parts.append(plain[number](delta.text))
                else:
                    parts += self._pieces(number, delta.text, len(delta.token_ids))
                if delta.finish_reason is not None:
                    parts += [self._event(number, piece) for piece in reader.flush()]
                    reason = reader.finish_reason(delta.request)
                    parts.append(self._event(number, {}, reason=reason))
                if parts:
                    yield b"".join(parts)
            if self._usage:
                usage = self._running.usage(self._prompt_tokens)
                yield event({**self._head, "choices": [], "usage": usage})
        except LlmcError as error:
            yield failure(error)
        yield DONE

    def _pieces(self, number: int, text: str, tokens: int) -> list[bytes]:
        """Events of a text in which tool calls may be, or with log-probabilities."""
        pieces = self._texts[number].push(text)
        if self._logprobs is None:
            return [self._event(number, piece) for piece in pieces]
        _, found = self._logprobs[number].take(tokens)
        logprobs = {"content": chat_entries(self._tokenizer, found), "refusal": None}
        pieces = pieces or [{"content": ""}]
        events = [self._event(number, piece) for piece in pieces[:-1]]
        return [*events, self._event(number, pieces[-1], logprobs=logprobs)]

    def _event(
        self, number: int, delta: Any, *, logprobs: Any = None, reason: str | None = None
    ) -> bytes:
        return event(self._chunk(number, delta, logprobs, reason))

    def _plain_event(self, number: int) -> TextEvent:
        return TextEvent(self._chunk(number, {"content": TextEvent.HOLE}, None, None))

    def _chunk(self, number: int, delta: Any, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return {**self._head, "choices": [choice], **usage}
