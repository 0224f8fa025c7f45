"""Compiles kernels in a process of its own: `python -m llmc.codegen.triton.cubin_worker`.

In, on stdin: messages, each a `Job`. Out, on stdout: a `Cubin` or a `Failure` for each, in order.
A message is four bytes with its length, then msgpack.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from ...base.errors import LlmcError
from .kernel_spec import Cubin, KernelSpec


class Job(msgspec.Struct, frozen=True):
    """One kernel, and how to compile it. `ptxas`: a path, or empty for Triton's."""

    spec: KernelSpec
    sm: int
    ptxas: str = ""
    keep_ptx: bool = False


class Failure(msgspec.Struct, frozen=True):
    """An `LlmcError`."""

    id: str
    message: str
    hint: str


class Answer(msgspec.Struct, frozen=True):
    """One of both."""

    cubin: Cubin | None = None
    failure: Failure | None = None


def send(stream: IO[bytes], message: Job | Answer) -> None:
    """Write one message."""
    data = msgspec.msgpack.encode(message)
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """The bytes of the next message; empty when there is none any more."""
    head = stream.read(4)
    if len(head) < 4:
        return b""
    (size,) = struct.unpack("<I", head)
    data = stream.read(size)
    return data if len(data) == size else b""


def _answer(job: Job) -> Answer:
    from .kernel_build import build_kernel  # takes half a second

    ptxas = Path(job.ptxas) if job.ptxas else None
    try:
        return Answer(cubin=build_kernel(job.spec, job.sm, ptxas, keep_ptx=job.keep_ptx))
    except LlmcError as error:
        return Answer(failure=Failure(error.id, error.message, error.hint))
    except OSError as error:
        message = f"compiling kernels in {tempfile.gettempdir()} failed: {error.strerror}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Answer(failure=Failure("LLMC-E0701" if full else "LLMC-E0707", message, ""))


def main() -> None:
    """Answer until stdin ends. What Triton prints goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while data := receive(sys.stdin.buffer):
        send(out, _answer(msgspec.msgpack.decode(data, type=Job)))


if __name__ == "__main__":
    main()
