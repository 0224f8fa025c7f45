"""From an error to what a client is told: OpenAI's error object, with our stable id as its code.

Nothing of a defect but its id is told; the rest goes to the log.
"""

from collections.abc import Mapping
from typing import Any

from ...base.errors import LlmcError

STATUS = {
    "LLMC-E0104": 503,
    "LLMC-E0214": 404,
    "LLMC-E0216": 413,
    "LLMC-E0217": 401,
    "LLMC-E0218": 429,
    "LLMC-E0220": 503,
    "LLMC-E0221": 404,
    "LLMC-E0222": 408,
    "LLMC-E0223": 504,
    "LLMC-E0224": 415,
    "LLMC-E0600": 503,
    "LLMC-E0603": 400,
}
"""Where the status isn't 400 for ids of usage and 500 for others."""

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 404: "not_found_error"}


class RequestError(LlmcError):
    """An error of a request: `param` names the field, `headers` go with the answer."""

    def __init__(
        self,
        id: str,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(id, message)
        self.param = param
        self.status = status
        self.headers = dict(headers or {})


def unsupported(param: str, why: str) -> RequestError:
    """The error for something that OpenAI's interface has and this server hasn't."""
    return RequestError("LLMC-E0215", f"{param} {why}", param=param)


def status_of(error: LlmcError) -> int:
    """The HTTP status that this error is answered with."""
    status = getattr(error, "status", None)
    return status or STATUS.get(error.id) or (400 if error.id.startswith("LLMC-E02") else 500)


def headers_of(error: LlmcError, status: int) -> dict[str, str]:
    """Headers that go with an error."""
    headers = dict(getattr(error, "headers", {}))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        headers["connection"] = "close"  # what is still sent of the body isn't read
    if status == 503:
        headers.setdefault("retry-after", "5")
    return headers


def content_of(error: LlmcError) -> dict[str, Any]:
    """The error object."""
    status = status_of(error)
    default = "invalid_request_error" if status < 500 else "server_error"
    message = error.message
    if error.id == "LLMC-E0100":
        message = "internal error; the server's log says more"
    elif error.hint:
        message = f"{message} ({error.hint})"
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(status, default),
            "param": getattr(error, "param", None),
            "code": error.id,
        }
    }
