"""A server process to measure: `llmc serve` on a free port, and what it takes of the machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .fresh import call

NAME = "default"
"""What the model is called in requests."""
SERVE = "from llmc.cli import main; main()"
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A process that serves on `port`; ready when entered, asked to end when left.

    `ready`: the path that answers 200 when it is. `log`: where the process's output goes.
    """

    def __init__(
        self, command: list[str], port: int, *, ready: str = "/ready", log: Path | None = None
    ) -> None:
        self.command, self.port, self.ready, self.log = command, port, ready, log

    def __enter__(self) -> Self:
        with open(self.log or os.devnull, "ab") as out:  # noqa: PTH123
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait_until_ready(60)
        return self

    def _wait_until_ready(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self.process.returncode}")
            try:
                with urllib.request.urlopen(self.url(self.ready), timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise RuntimeError(f"the server is not ready after {seconds:.0f} s")

    def url(self, path: str) -> str:
        """Where a path of the server is."""
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def rss_mb(self) -> float:
        """Memory that it holds for itself now, mapped files left out."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if "RssAnon" in line)

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    @property
    def descriptors(self) -> list[str]:
        """What its open file descriptors lead to, sorted."""
        found = []
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(str(path.readlink()).split(":")[0])
            except OSError:  # closed in the meantime
                continue
        return sorted(found)

    def stop(self, seconds: float = 30) -> int:
        """Ask it to end; its exit status. Killed, with status -9, if it doesn't."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Server(Served):
    """`llmc serve ARTIFACT` with more words behind it. `code`: what Python runs instead of llmc's
    command."""

    def __init__(
        self, artifact: str, *words: str, code: str = SERVE, log: Path | None = None
    ) -> None:
        port = free_port()
        command = [sys.executable, "-c", code, "serve", f"{NAME}={artifact}"]
        super().__init__([*command, "--port", str(port), *words], port, log=log)


def call_served(
    function: Callable[..., Any], artifact: str, *, code: str = SERVE, **arguments: Any
) -> Any:
    """What `function(port=..., **arguments)` returns in a fresh process, with a fresh server."""
    with Server(artifact, code=code) as server:
        return call(function, port=server.port, **arguments)
