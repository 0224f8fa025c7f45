"""`/health` and `/ready`: what probes ask."""

from starlette.requests import Request
from starlette.responses import Response

from ..connection.error_objects import RequestError
from ..connection.json_response import Json, problem
from ..server_state import state_of


async def health(http: Request) -> Response:
    """Whether the process answers."""
    return Json({"status": "ok"})


async def ready(http: Request) -> Response:
    """Whether it takes requests: not while it stops, nor after an engine has failed."""
    catalog = state_of(http).catalog
    if catalog.draining:
        return problem(RequestError("LLMC-E0220", "the server is stopping"))
    failed = catalog.failed
    if failed is not None:
        return problem(failed)
    return Json({"status": "ready"})
