"""The application: the routes of `routes.py`, and what stands before them.

`create_app(models, config)` is all that a test or an embedding app needs; it is an ASGI
application. `connection/listener.py` runs it on uvicorn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..base.errors import LlmcError
from ..runtime.api.async_engine import AsyncEngine
from .config import ServerConfig
from .connection.api_keys import ApiKeys, read_keys
from .connection.error_objects import RequestError
from .connection.json_response import problem
from .connection.middleware import Gate
from .routes import ROUTES, Route, add_routes
from .served_models import Catalog, Served
from .server_state import ServerState

if TYPE_CHECKING:
    from ..runtime.api.model import Model


def create_app(
    models: "Mapping[str, Model]",
    config: ServerConfig | None = None,
    keys: ApiKeys | None = None,
    routes: Sequence[Route] = ROUTES,
) -> FastAPI:
    """An application that serves these models. It doesn't close them.

    `keys`: those of the settings and the environment if none are given. `routes`: what it answers.
    """
    config = config or ServerConfig()
    if keys is None:
        keys = read_keys(config.api_key, config.api_key_file)
    served = {
        name: Served(name, model, AsyncEngine(model), config) for name, model in models.items()
    }
    app = FastAPI(title="llmc", docs_url=None, redoc_url=None)  # their pages load outside assets
    app.state.llmc = ServerState(config, Catalog(served))
    add_routes(app, routes)
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


async def _refused(http: Request, error: LlmcError) -> Response:
    return problem(error)


async def _not_found(http: Request, error: HTTPException) -> Response:
    message = f"{http.method} {http.url.path[:200]}: {error.detail}"
    refused = RequestError("LLMC-E0221", message, status=error.status_code, headers=error.headers)
    return problem(refused)


async def _left(http: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it
