"""`/v1/responses`: text and function calls, nothing stored."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ....base.errors import LlmcError
from ...config import ServerConfig
from ...connection.error_objects import content_of
from ...served_models import Served
from ..chat_prompt import ChatPrompts, rendering_of
from ..generating_endpoint import Asked, generate
from ..logprobs import NewLogprobs, chat_entries
from ..protocol.response import ResponseRequest
from ..request_limits import output_limit
from ..running_requests import Running
from ..template_variables import template_variables
from ..tool_choice import tools_of
from .events import NumberedEvents, StreamedCalls, StreamedMessage
from .items import (
    call_item,
    check,
    format_of,
    messages_of,
    new_id,
    response_object,
    tells_logprobs,
    tools_in,
)


async def responses(http: Request) -> Response:
    """Answers a chat in the form of the Responses interface."""
    return await generate(http, ResponseRequest, _read, _Answer)


def _read(body: ResponseRequest, served: Served, config: ServerConfig) -> Asked[ChatPrompts]:
    check(body)
    tools = tools_of(served, *tools_in(body), body.parallel_tool_calls)
    variables = template_variables(
        served,
        body,
        tools=tools.offered is not None,
        effort=body.reasoning.effort if body.reasoning is not None else None,
        effort_field="reasoning.effort",
        verbosity=body.text.verbosity if body.text is not None else None,
    )
    prompts = ChatPrompts(served, messages_of(body), tools, rendering_of(body, variables))
    limit = output_limit(max_output_tokens=body.max_output_tokens, n_predict=body.n_predict)
    return Asked(prompts, limit, logprobs=_logprobs(body), form=format_of(body))


def _logprobs(body: ResponseRequest) -> int | None:
    """How many alternatives; 0 if only what was chosen is to be told."""
    return body.top_logprobs or 0 if tells_logprobs(body) else None


class _Answer:
    """One answer of this endpoint. Its output items are a message, if there is text, and calls."""

    def __init__(self, body: ResponseRequest, running: Running, prompts: ChatPrompts) -> None:
        self._body, self._running, self._reader = body, running, prompts.reader()
        self._content = response_object(body, running.served.name)
        self._output: list[dict[str, Any]] = []

    async def whole(self) -> dict[str, Any]:
        """The answer at once."""
        (text,) = await self._running.texts()
        message = self._reader.message(text)
        calls = message.get("tool_calls") or []
        if message["content"] or not calls:
            self._output.append(self._message(new_id("msg"), message["content"] or ""))
        self._output += [call_item(call, "completed") for call in calls]
        return self._complete()

    def _message(self, identifier: str, text: str) -> dict[str, Any]:
        complete = self._running.requests[0].finish_reason != "length"
        return {
            "id": identifier,
            "type": "message",
            "role": "assistant",
            "status": "completed" if complete else "incomplete",
            "content": [self._part(text)],
        }

    def _part(self, text: str) -> dict[str, Any]:
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        if tells_logprobs(self._body):
            tokenizer = self._running.served.model.tokenizer
            part["logprobs"] = chat_entries(tokenizer, self._running.requests[0].logprobs)
        return part

    def _complete(self) -> dict[str, Any]:
        (request,) = self._running.requests
        usage = self._running.usage(len(request.prompt))
        cut = request.finish_reason == "length"
        return {
            **self._content,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as it comes. An error under way ends it with `response.failed`."""
        numbered = NumberedEvents()
        yield numbered("response.created", response=self._content)
        yield numbered("response.in_progress", response=self._content)
        message = StreamedMessage(numbered, self._output, self._message)
        calls = StreamedCalls(numbered, self._output)
        (request,) = self._running.requests
        news = NewLogprobs(request) if tells_logprobs(self._body) else None
        try:
            async for _, delta in self._running.deltas():
                if news is not None:
                    _, found = news.take(len(delta.token_ids))
                    message.tell(chat_entries(self._running.served.model.tokenizer, found))
                if self._reader.is_plain:
                    if delta.text:
                        yield message.text(delta.text)
                    continue
                sent = _pieces(self._reader.push(delta.text), message, calls)
                if sent:
                    yield sent
            yield _pieces(self._reader.flush(), message, calls)
            yield message.end(needed=not calls) + calls.end()
            complete = self._complete()
            yield numbered(f"response.{complete['status']}", response=complete)
        except LlmcError as error:
            failed = content_of(error)["error"]
            told = {"code": failed["code"], "message": failed["message"]}
            content = {**self._content, "status": "failed", "error": told}
            yield numbered("response.failed", response=content)


def _pieces(
    pieces: Sequence[Mapping[str, Any]], message: StreamedMessage, calls: StreamedCalls
) -> bytes:
    """The events of deltas of a message."""
    sent = b""
    for piece in pieces:
        if piece.get("content"):
            sent += message.text(piece["content"])
        for call in piece.get("tool_calls", ()):
            sent += message.end(needed=False) + calls.add(call)
    return sent
