"""What every endpoint needs: the settings, the models, who asks, and the body."""

from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from .config import ServerConfig
from .connection.event_stream import Stalls
from .connection.request_body import read_json, validated
from .served_models import Catalog

M = TypeVar("M", bound=BaseModel)


class ServerState:
    """One server. `app.state.llmc` holds it."""

    def __init__(self, config: ServerConfig, catalog: Catalog) -> None:
        self.config, self.catalog = config, catalog
        self.max_body = config.max_body_bytes
        self.stalls = Stalls(config.write_timeout)

    async def body(self, http: Request, schema: type[M]) -> M:
        """The body of a request, checked. Errors: E0213, E0216, E0222, E0224."""
        seconds = self.config.body_timeout
        value = await read_json(http, max_bytes=self.max_body, seconds=seconds)
        return validated(schema, value)


def state_of(http: Request) -> ServerState:
    """The server that a request came to."""
    return http.app.state.llmc


def key_of(http: Request) -> str:
    """The name of the API key that a request came with, empty where none is needed."""
    return http.scope.get("llmc.key", "")
