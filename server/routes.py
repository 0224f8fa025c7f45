"""Every path of the server: one table, from which come the application's routes and the OpenAPI
document. A new endpoint is its file and a row here."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from .api.chat_completions import chat_completions
from .api.completions import completions
from .api.models import list_models, show_model
from .api.openapi import answers, describe, parameters_and_body
from .api.protocol.chat import ChatRequest
from .api.protocol.completion import CompletionRequest
from .api.protocol.response import ResponseRequest
from .api.protocol.tokens import DetokenizeRequest, TokenizeRequest
from .api.responses.endpoint import responses
from .api.tokens import detokenize, tokenize
from .ops.health import health, ready
from .ops.metrics import metrics
from .ops.status_page import status_json, status_page

HTML, JSON, EVENTS, TEXT = "text/html", "application/json", "text/event-stream", "text/plain"


class Route(NamedTuple):
    """One path. `kinds`: content types of its answers; `body`: the schema of what it is sent."""

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    summary: str
    kinds: tuple[str, ...] = (JSON,)
    body: type[BaseModel] | None = None


STREAMED = (JSON, EVENTS)
ROUTES = (
    Route("GET", "/", status_page, "The status page", (HTML,)),
    Route("GET", "/status.json", status_json, "What the status page shows"),
    Route("GET", "/health", health, "Whether the process answers"),
    Route("GET", "/ready", ready, "Whether it takes requests"),
    Route("GET", "/metrics", metrics, "Metrics for Prometheus", (TEXT,)),
    Route("GET", "/v1/models", list_models, "All models"),
    Route("GET", "/v1/models/{name}", show_model, "One model"),
    Route(
        "POST", "/v1/chat/completions", chat_completions, "Answer a chat", STREAMED, ChatRequest
    ),
    Route("POST", "/v1/completions", completions, "Continue prompts", STREAMED, CompletionRequest),
    Route(
        "POST", "/v1/responses", responses, "Answer a chat, in the newer form", STREAMED,
        ResponseRequest,
    ),
    Route(
        "POST", "/tokenize", tokenize, "Token ids of a text or chat", (JSON,), TokenizeRequest
    ),
    Route(
        "POST", "/detokenize", detokenize, "The text of token ids", (JSON,), DetokenizeRequest
    ),
)  # fmt: skip


def add_routes(app: FastAPI, routes: Sequence[Route]) -> None:
    """Has the application answer these paths, and say so in its document."""
    for route in routes:
        app.add_api_route(
            route.path.replace("}", ":path}"),  # names may have slashes: `org/name`
            route.endpoint,
            methods=[route.method],
            summary=route.summary,
            response_model=None,
            response_class=Response,
            responses=answers(*route.kinds),
            openapi_extra=parameters_and_body(route.path, route.body),
        )
    describe(app, [route.body for route in routes if route.body is not None])
