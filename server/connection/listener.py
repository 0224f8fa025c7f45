"""Running the application on uvicorn: sockets, signals, draining.

SIGTERM or SIGINT: no new requests, those that run get `drain_seconds`, then they are ended. Another
signal ends at once. Whether everything was finished decides how the command ends.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from ...base.errors import LlmcError
from ..config import ServerConfig
from ..served_models import Catalog
from .bounded_protocol import Connection

_BACKLOG = 1024
_LAST_WORDS = 2.0
"""Seconds for answers to leave after the requests were ended."""


def listen(config: ServerConfig) -> socket.socket:
    """The socket that the settings name, listening. Errors: E0708."""
    try:
        if config.unix_socket:
            return _unix_socket(config.unix_socket)
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        made = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else str(error)
        where = config.unix_socket or f"{config.host} port {config.port}"
        raise LlmcError("LLMC-E0708", f"{where}: {reason}") from error
    made.setblocking(False)
    return made


def _unix_socket(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            Path(path).unlink()
        made.bind(path)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _is_abandoned(path: str) -> bool:
    """Whether there is a socket at which nobody listens, as a killed server leaves it."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def url_of(config: ServerConfig, listening: socket.socket) -> str:
    """Where clients reach the server."""
    if config.unix_socket:
        return f"unix:{config.unix_socket}"
    port = listening.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, with signals that drain. `stopped_by`: the signal that ended it, if it
    had to leave requests unfinished."""

    def __init__(self, app: ASGIApp, catalog: Catalog, config: ServerConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=max(1, round(config.keep_alive)),
                limit_concurrency=config.max_connections,
            )
        )
        self._catalog, self._settings = catalog, config
        self.stopped_by: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # where an app embeds the server, signals are the app's
            return
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        kept = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if kept[number] is not signal.SIG_IGN:  # as `nohup` may have it
                loop.add_signal_handler(number, self.stop, number)
        try:
            yield
        finally:
            for number, handler in kept.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def stop(self, number: int) -> None:
        """Drains; when it is asked again, ends at once."""
        if self._catalog.draining:
            self._end(number)
            return
        self._catalog.draining = True
        self.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._settings.drain_seconds, self._end, number)

    def _end(self, number: int) -> None:
        """Ends what still runs."""
        if self._catalog.sequences or self.server_state.tasks:
            self.stopped_by = number
        for served in self._catalog:
            served.model.thread.close(drain=False, timeout=0)
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._abandon)

    def _abandon(self) -> None:
        """Leaves clients that don't even take the last answer."""
        for task in [*self.server_state.tasks]:
            task.cancel()
        for connection in [*self.server_state.connections]:
            connection.transport.abort()  # type: ignore[union-attr]
        self.force_exit = True


def serve(
    app: ASGIApp,
    catalog: Catalog,
    config: ServerConfig,
    listening: Sequence[socket.socket],
    started: Callable[[], Any],
) -> int | None:
    """Serves until a signal comes; returns the signal if it left requests unfinished.

    `started` is called when requests are accepted.
    """
    server = Server(app, catalog, config)

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=list(listening)))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if not serving.done():
            started()
        await serving

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    finally:
        for one in listening:
            one.close()
        if config.unix_socket:
            with contextlib.suppress(OSError):
                Path(config.unix_socket).unlink()
    return server.stopped_by
