"""What every request passes: API keys, a last net for defects, and the access log.

Plain ASGI, so that nothing stands between a stream and its connection.
"""

import logging
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ...base.debug import debugging
from ...base.errors import LlmcError
from .api_keys import ApiKeys
from .error_objects import RequestError
from .json_response import problem

OPEN = frozenset({"/", "/health", "/ready"})
"""Paths that need no key: what probes ask, and a page that holds no data itself."""

_log = logging.getLogger("llmc.server")
_access = logging.getLogger("llmc.access")


class Gate:
    """Stands before the application."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, access_log: bool) -> None:
        self._app, self._keys, self._access_log = app, keys, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = _Started(send)
        began = perf_counter()
        try:
            if not self._may_pass(scope):
                error = RequestError("LLMC-E0217", "the API key is missing or unknown")
                await problem(error)(scope, receive, started)
                return
            await self._app(scope, receive, started)
        except Exception as error:
            await self._defect(error, scope, receive, started)
        finally:
            if self._access_log:
                seconds = perf_counter() - began
                client = (scope.get("client") or ("-",))[0]
                method, path = scope["method"], scope["path"]
                _access.info("%s %s %r %s %.3fs", client, method, path, started.status, seconds)

    def _may_pass(self, scope: Scope) -> bool:
        scope["llmc.key"] = ""
        if not self._keys.required or scope["path"] in OPEN:
            return True
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        name = self._keys.name_of(sent[0]) if len(sent) == 1 else None
        scope["llmc.key"] = name or ""
        return name is not None

    async def _defect(
        self, error: Exception, scope: Scope, receive: Receive, started: "_Started"
    ) -> None:
        """Answers what nothing below knew, if the answer hasn't begun, and logs it."""
        _log.error("%s %r: %r", scope["method"], scope["path"], error, exc_info=debugging())
        if started.status == "-":
            await problem(LlmcError("LLMC-E0100", str(error)))(scope, receive, started)
        else:
            raise error


class _Started:
    """`send`, and the status that was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: Any = "-"

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
