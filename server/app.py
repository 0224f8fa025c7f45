"""The application: routes, and what stands before them.

`create_app(models, config)` is all that a test or an embedding app needs; it is an ASGI
application. `serve.py` runs it on uvicorn.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..base.errors import LlmcError
from ..runtime.api.async_engine import AsyncEngine
from .api.chat_completions import chat_completions
from .api.completions import completions
from .api.models_and_tokens import detokenize, health, list_models, ready, show_model, tokenize
from .api.openapi import answers, body, describe
from .api.protocol.chat import ChatRequest
from .api.protocol.completion import CompletionRequest
from .api.protocol.response import ResponseRequest
from .api.protocol.text import DetokenizeRequest, TokenizeRequest
from .api.responses.endpoint import responses
from .config import ServerConfig
from .connection.api_keys import ApiKeys, read_keys
from .connection.error_objects import RequestError
from .connection.gate import Gate
from .connection.responses import problem
from .context import Context
from .ops.metrics import metrics
from .ops.status import status_json, status_page
from .served_models import Catalog, Served

if TYPE_CHECKING:
    from ..runtime.api.model import Model

Endpoint = Callable[[Request], Awaitable[Response]]

JSON, EVENTS = "application/json", "text/event-stream"
GETS: dict[str, tuple[Endpoint, str, str]] = {
    "/": (status_page, "The status page", "text/html"),
    "/status.json": (status_json, "What the status page shows", JSON),
    "/health": (health, "Whether the process answers", JSON),
    "/ready": (ready, "Whether it takes requests", JSON),
    "/metrics": (metrics, "Metrics for Prometheus", "text/plain"),
    "/v1/models": (list_models, "All models", JSON),
    "/v1/models/{name}": (show_model, "One model", JSON),
}
POSTS: dict[str, tuple[Endpoint, str, type[BaseModel]]] = {
    "/v1/chat/completions": (chat_completions, "Answer a chat", ChatRequest),
    "/v1/completions": (completions, "Continue prompts", CompletionRequest),
    "/v1/responses": (responses, "Answer a chat, in the newer form", ResponseRequest),
    "/tokenize": (tokenize, "Token ids of a text or chat", TokenizeRequest),
    "/detokenize": (detokenize, "The text of token ids", DetokenizeRequest),
}


def create_app(
    models: "Mapping[str, Model]",
    config: ServerConfig | None = None,
    keys: ApiKeys | None = None,
) -> FastAPI:
    """An application that serves these models. It doesn't close them.

    `keys`: those of the settings and the environment if none are given.
    """
    config = config or ServerConfig()
    if keys is None:
        keys = read_keys(config.api_key, config.api_key_file)
    served = {
        name: Served(name, model, AsyncEngine(model), config) for name, model in models.items()
    }
    app = FastAPI(title="llmc", docs_url=None, redoc_url=None)  # their pages load outside assets
    app.state.llmc = Context(config, Catalog(served))
    _add_routes(app)
    app.add_exception_handler(LlmcError, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _not_found)  # type: ignore[arg-type]
    app.add_exception_handler(ClientDisconnect, _left)  # type: ignore[arg-type]
    app.add_middleware(Gate, keys=keys, access_log=config.access_log)
    if config.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _add_routes(app: FastAPI) -> None:
    for path, (endpoint, summary, kind) in GETS.items():
        app.add_api_route(
            path, endpoint, methods=["GET"], summary=summary, response_model=None,
            response_class=Response, responses=answers(kind), openapi_extra=_named(path),
        )  # fmt: skip
    for path, (endpoint, summary, schema) in POSTS.items():
        kinds = (JSON, EVENTS) if path.startswith("/v1/") else (JSON,)
        app.add_api_route(
            path, endpoint, methods=["POST"], summary=summary, response_model=None,
            response_class=Response, responses=answers(*kinds), openapi_extra=body(schema),
        )  # fmt: skip
    describe(app, [schema for _, _, schema in POSTS.values()])


def _named(path: str) -> dict[str, Any] | None:
    if "{name}" not in path:
        return None
    schema = {"type": "string", "minLength": 1}
    return {"parameters": [{"name": "name", "in": "path", "required": True, "schema": schema}]}


async def _refused(http: Request, error: LlmcError) -> Response:
    return problem(error)


async def _not_found(http: Request, error: HTTPException) -> Response:
    message = f"{http.method} {http.url.path[:200]}: {error.detail}"
    refused = RequestError("LLMC-E0221", message, status=error.status_code, headers=error.headers)
    return problem(refused)


async def _left(http: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it
