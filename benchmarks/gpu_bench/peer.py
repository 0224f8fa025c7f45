"""`torch.compile` as a peer: a process of its own, which can be ended when it takes too long.

It compiles while nothing is measured, and then takes turns with our own steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parent / "drivers" / "drive_compile.py"


class PeerLost(RuntimeError):
    """The peer can't go on, or takes too long."""


class Peer:
    """The process. `what`: which model it runs, with which torch."""

    def __init__(
        self,
        config: dict[str, Any],
        seconds: float,
        *,
        device: str = "cuda",
        mode: str = "max-autotune",
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed by `close`
        # Without our package's path: the driver is to see what is installed here.
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(config), device, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
            start_new_session=True,  # so that its compilers end with it
        )
        self._buffer, self._open = b"", True
        try:
            began = self._answer(seconds)
        except BaseException:
            self.close()
            raise
        self.what = f"torch.compile {mode}, {began['what']}, torch {began['torch']}"

    def prepare(self, name: str, sequences: int, context: int, seconds: float) -> float:
        """Compile a decode step within `seconds`; how long it took. Raises PeerLost."""
        return self._ask(f"prepare {name} {sequences} {context}", seconds)

    def turn(self, name: str, seconds: float = 20) -> float:
        """Seconds of a step. Raises PeerLost."""
        return self._ask(f"turn {name}", seconds)

    def _ask(self, line: str, seconds: float) -> float:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        answer = self._answer(seconds)
        if "error" in answer:
            raise PeerLost(answer["error"])
        return float(answer["seconds"])

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(seconds, 0)):
                    self.close()
                    raise PeerLost(f"no answer within {seconds:.0f} s")
                data = os.read(stdout.fileno(), 1 << 16)
                if not data:
                    raise PeerLost(self._last_words())
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"it ended: {lines[-1] if lines else 'no output'}"[:300]

    def close(self) -> None:
        """End it, with its children. May be called twice."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
