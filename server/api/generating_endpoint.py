"""The course of every request that generates, whatever its endpoint.

Read the body, find the model, understand what is asked (`read`, the endpoint's own), parse the
options, prepare the prompts, run the requests, and give the answer (`answer`, the endpoint's own)
as a stream or at once. The engine's requests end when the client leaves.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...runtime.api.generation_options import RequestOptions
from ...runtime.engine.request import Request as EngineRequest
from ..config import ServerConfig
from ..connection.error_objects import unsupported
from ..connection.event_stream import Attended, EventStream
from ..connection.json_response import Json
from ..served_models import Served
from ..server_state import ServerState, key_of, state_of
from .answer_grammar import answer_grammar
from .other_fields import check_other_fields
from .protocol.generation_fields import GenerationBody, ResponseFormat
from .request_limits import check_prompt, max_tokens_of
from .running_requests import Running
from .sampling_fields import options_of


class Prompts(Protocol):
    """What is to be continued, in an endpoint's own form."""

    async def prepare(self, options: RequestOptions) -> list[list[int]]:
        """The ids of each prompt. May change the options that follow from what the prompt is."""
        ...


class Answer(Protocol):
    """An answer in an endpoint's own form."""

    def events(self) -> AsyncIterator[bytes]:
        """As it comes, in server-sent events."""
        ...

    async def whole(self) -> dict[str, Any]:
        """At once."""
        ...


B = TypeVar("B", bound=GenerationBody)
P = TypeVar("P", bound=Prompts)


@dataclass(frozen=True, slots=True)
class Asked(Generic[P]):
    """What a body asks for beside the fields that all have: `n` continuations of each prompt, of at
    most `max_tokens` tokens (None: all that there is room for), in a form."""

    prompts: P
    max_tokens: int | None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    form: ResponseFormat | None = None


async def generate(
    http: Request,
    schema: type[B],
    read: Callable[[B, Served, ServerConfig], Asked[P]],
    answer: Callable[[B, Running, P], Answer],
) -> Response:
    """Answers one request. `read`: E0213 and E0215 for what contradicts itself or can't be done."""
    server = state_of(http)
    body = await server.body(http, schema)
    check_other_fields(body.model_extra)
    if body.store:
        raise unsupported("store", "is not supported: this server stores nothing")
    served = server.catalog.get(body.model)
    asked = read(body, served, server.config)
    options = options_of(
        body,
        served,
        server.config,
        key_of(http),
        n=asked.n,
        logprobs=asked.logprobs,
        prompt_logprobs=asked.prompt_logprobs,
    )
    options.grammar = await answer_grammar(served, body, asked.form)
    requests = await _requests(asked, options, served, server.config)
    running = Running(served, requests, streamed=bool(body.stream))
    made = answer(body, running, asked.prompts)
    return await _reply(http, server, running, made, stream=bool(body.stream))


async def _requests(
    asked: Asked[Any], options: RequestOptions, served: Served, config: ServerConfig
) -> list[EngineRequest]:
    """The engine's requests: all continuations of the first prompt, then those of the next."""
    requests: list[EngineRequest] = []
    for prompt in await asked.prompts.prepare(options):
        check_prompt(prompt, served, config)
        tokens = max_tokens_of(asked.max_tokens, prompt, served, config)
        own = msgspec.structs.replace(options, max_tokens=tokens)
        requests += served.model.request_maker.make(prompt, own)
    return requests


async def _reply(
    http: Request, server: ServerState, running: Running, answer: Answer, *, stream: bool
) -> Response:
    if stream:
        return EventStream(answer.events(), running.stop, server.stalls)
    try:
        async with Attended(http.receive, running.stop):
            return Json(await answer.whole())
    finally:
        running.stop()
