"""Looks into a server's process from outside, without the server knowing.

`CODE` runs llmc's command in a process that counts the seconds of the program's steps in a mapped
file (`StepClock`), and that writes what is alive in it to a file when it gets SIGUSR1: asyncio
tasks, threads, requests, and the blocks that requests hold.
"""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import signal
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

CODE = (
    "from llmc.benchmarks.serving_bench.probe import install; install({!r}); "
    "from llmc.cli import main; main()"
)
"""For `python -c`, with the probe's path filled in; the command's words are its arguments."""
_FORMAT = "dq"


class StepClock:
    """Seconds and number of a program's steps; with a path, in a file that others may read."""

    def __init__(self, path: Path | None = None) -> None:
        size = struct.calcsize(_FORMAT)
        if path is None:
            self._memory: mmap.mmap = mmap.mmap(-1, size)
            return
        with path.open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)

    @property
    def seconds(self) -> float:
        return struct.unpack_from(_FORMAT, self._memory)[0]

    @property
    def steps(self) -> int:
        return struct.unpack_from(_FORMAT, self._memory)[1]

    def attach(self, program: Any) -> None:
        """Count this program's steps."""
        program.step = self.counting(program.step)

    def counting(self, step: Any) -> Any:
        """The same function, counted."""

        def counted(*arguments: Any) -> Any:
            began = perf_counter()
            try:
                return step(*arguments)
            finally:
                seconds, steps = struct.unpack_from(_FORMAT, self._memory)
                took = perf_counter() - began
                struct.pack_into(_FORMAT, self._memory, 0, seconds + took, steps + 1)

        return counted


def install(path: str) -> None:
    """In the server's process, before the command runs."""
    from llmc.runtime.executors.cpu import CpuExecutor

    CpuExecutor.step = StepClock(Path(path)).counting(CpuExecutor.step)
    target = Path(f"{path}.json")

    def on_signal(_: int, __: FrameType | None) -> None:
        part = target.with_suffix(".part")
        part.write_text(json.dumps(alive()))
        part.replace(target)

    signal.signal(signal.SIGUSR1, on_signal)


def alive() -> dict[str, Any]:
    """What there is in this process now."""
    from llmc.runtime.engine.engine import Engine
    from llmc.runtime.engine.request import Request

    gc.collect()
    try:
        tasks = [task.get_name() for task in asyncio.all_tasks()]
    except RuntimeError:  # no loop runs in this thread
        tasks = []
    objects = gc.get_objects()
    engines = [one for one in objects if isinstance(one, Engine)]
    return {
        "tasks": len(tasks),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "requests": sum(isinstance(one, Request) for one in objects),
        "engine": [engine_state(one) for one in engines],
        "objects": dict(Counter(type(one).__qualname__ for one in objects).most_common(12)),
    }


def engine_state(engine: Any) -> dict[str, int]:
    """What an engine's gauges say."""
    return dict(engine.gauges()._asdict())


def ask(pid: int, path: Path, seconds: float = 10) -> dict[str, Any]:
    """What is alive in the process of that number, whose probe is at `path`."""
    import os

    target = Path(f"{path}.json")
    target.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + seconds
    while not target.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"process {pid} does not answer its probe")
        time.sleep(0.02)
    return json.loads(target.read_text())


if __name__ == "__main__":
    print(json.dumps(alive()), file=sys.stderr)
