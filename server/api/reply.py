"""How every endpoint that generates gives its answer: as a stream of events, or at once.

Either way the engine's requests end when the client leaves.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ..connection.responses import Attended, EventStream, Json
from ..context import Context
from .generation import Running


class Answer(Protocol):
    """An answer in an endpoint's own form."""

    def events(self) -> AsyncIterator[bytes]:
        """As it comes, in server-sent events."""
        ...

    async def whole(self) -> dict[str, Any]:
        """At once."""
        ...


async def respond(
    http: Request, context: Context, running: Running, answer: Answer, *, stream: bool
) -> Response:
    """The response to a request whose sequences are running."""
    if stream:
        return EventStream(answer.events(), running.stop, context.stalls)
    try:
        async with Attended(http.receive, running.stop):
            return Json(await answer.whole())
    finally:
        running.stop()
