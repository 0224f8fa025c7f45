"""Runs the compile of a job in a process of its own (`worker.py`), which can be stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import torch

from ...base.errors import LlmcError
from .worker import COMPILER, JOB, PROGRAM, Job

_DISK_FULL = "No space left on device"


def find_compiler() -> str:
    """The C++ compiler that Inductor is to call: `$CXX`, else g++ or clang++.

    Raises:
        LlmcError: LLMC-E0703, there is none.
    """
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise LlmcError(
        "LLMC-E0703",
        "the inductor target needs a C++ compiler, and there is no g++ or clang++",
        hint="install g++ (Debian, Ubuntu: apt-get install g++), or name a compiler in CXX",
    )


def build_library(job: Job, out: Path, stop: threading.Event | None = None) -> None:
    """Compile `job` into the shared library `out`, which appears complete or not at all.

    Raises:
        LlmcError: LLMC-E0706, the compile failed or was stopped; LLMC-E0701, the disk is full;
            LLMC-E0703, no C++ compiler.
    """
    # Beside its destination, so that moving the library there is atomic.
    with tempfile.TemporaryDirectory(prefix=".llmc-build-", dir=out.parent) as name:
        folder = Path(name)
        (folder / JOB).write_bytes(msgspec.json.encode(job))
        _write_compiler(folder)
        _run_worker(folder, stop)
        (folder / PROGRAM).replace(out)


def _write_compiler(folder: Path) -> None:
    """A compiler that puts no path of this machine into what it makes."""
    places = (folder, Path(torch.__file__).parent.parent)
    maps = [f"-ffile-prefix-map={place}=." for place in places]
    command = shlex.join([find_compiler(), "-s", "-Wl,--build-id=none", *maps])
    script = folder / COMPILER
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    script.chmod(0o700)


def _run_worker(folder: Path, stop: threading.Event | None) -> None:
    log = folder / "log.txt"
    environment = os.environ | {
        "PYTHONHASHSEED": "0",  # the same order of everything on every build
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # more would only wait for one another
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmc.codegen.inductor.worker", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be ended with all its children
        )
        _wait(process, stop)
    if process.returncode != 0:
        raise _failure(log.read_text(errors="replace"), folder)


def _wait(process: subprocess.Popen, stop: threading.Event | None) -> None:
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
                return
            if stop is not None and stop.is_set():
                raise LlmcError("LLMC-E0706", "the inductor compile was stopped")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _failure(log: str, folder: Path) -> LlmcError:
    if _DISK_FULL in log:
        return LlmcError("LLMC-E0701", f"no space left for the compiler, in {folder.parent}")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "rror:" in line] or lines or ["no message"]
    return LlmcError("LLMC-E0706", f"the inductor compile failed: {errors[-1]}")
