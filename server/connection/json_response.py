"""Whole answers as JSON, lean: each is two messages to the server, without middle layers."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...base.errors import LlmcError
from .error_objects import content_of, headers_of, status_of

encode = msgspec.json.Encoder().encode
JSON = b"application/json"


class Json(Response):
    """A JSON answer."""

    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = status
        self.body = encode(content)
        self.background = None
        self.raw_headers = [
            (b"content-type", JSON),
            (b"content-length", str(len(self.body)).encode()),
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.encode(), value.encode("latin-1")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body})


def problem(error: LlmcError) -> Json:
    """The answer that an error gets."""
    status = status_of(error)
    return Json(content_of(error), status, headers_of(error, status))
