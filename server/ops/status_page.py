"""The status page at `/`, and the figures that it shows, `/status.json`."""

from functools import cache
from pathlib import Path
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..connection.json_response import Json
from ..served_models import Served
from ..server_state import state_of

_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@cache
def _page() -> bytes:
    return Path(__file__).with_name("status.html").read_bytes()


async def status_page(http: Request) -> Response:
    """The page; it asks for the figures itself, with a key if one is needed."""
    return Response(_page(), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


async def status_json(http: Request) -> Response:
    """Figures of all models."""
    catalog = state_of(http).catalog
    content = {
        "time": time(),
        "state": "draining" if catalog.draining else "failed" if catalog.failed else "ready",
        "models": [_figures(served) for served in catalog],
    }
    return Json(content, headers={"cache-control": "no-store"})


def _figures(served: Served) -> dict[str, Any]:
    engine = served.model.engine
    failed = served.failed
    return {
        "name": served.name,
        "capacity": {
            "sequences": served.capacity.sequences,
            "context": served.context,
            "at_once": served.at_once,
        },
        "in_flight": served.sequences,
        "refused": served.refused,
        "failed": None if failed is None else str(failed),
        **engine.counters.snapshot(engine.gauges()),
    }
