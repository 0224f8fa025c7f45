"""Compiles kernels to cubins, several at once.

In: `KernelSpec`s and a compute capability. Out: their `Cubin`s, in the same order, the same bytes
on every build. No GPU is needed.

Triton runs in processes of its own (`cubin_worker.py`), since they can be killed, since its LLVM
ends the process in some failures, and since what it makes depends on environment variables: these
processes have none of those. They keep no cache, and take some 150 MB each.

A cubin for SM90 or later runs on exactly these GPUs; one for SM80 on SM86 and SM89, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import msgspec

from ...base.errors import LlmcError
from ...base.machine import available_cores
from ...base.progress import Progress, silent
from .cubin_worker import Answer, Job, receive, send
from .kernel_spec import Cubin, KernelSpec
from .machines import MACHINES

# What Triton, MLIR and ptxas read, by the beginnings of names.
_VARIABLES = (
    *("TRITON_", "MLIR_", "LLVM_", "NVPTX_", "PTXAS_", "DISABLE_", "ENABLE_", "USE_IR_LOC"),
    *("ALLOW_", "AMDGCN_", "PROTON_", "CUDA_"),
)
_MOST_WORKERS = 16
_LONG = ("paged_attention.", "sampling.")
"""Kernels that take several times as long as others, and so begin first."""


def require_triton() -> None:
    """Raise LLMC-E0703 unless Triton is installed."""
    if importlib.util.find_spec("triton") is None:
        raise LlmcError(
            "LLMC-E0703",
            "the triton target needs Triton, which isn't installed",
            hint="pip install 'llmc-compiler[triton]'",
        )


def require_sm(sm: int) -> None:
    """Raise LLMC-E0202 if kernels can't be compiled for this compute capability."""
    if sm not in MACHINES:
        known = ", ".join(map(str, MACHINES))
        raise LlmcError(
            "LLMC-E0202", f"target triton can't compile for SM{sm}", f"it compiles for {known}"
        )


def compile_kernel(
    spec: KernelSpec, sm: int, *, ptxas: Path | None = None, keep_ptx: bool = False
) -> Cubin:
    """`compile_all` of one kernel."""
    return compile_all([spec], sm, ptxas=ptxas, keep_ptx=keep_ptx)[0]


def compile_all(
    specs: Sequence[KernelSpec],
    sm: int,
    stop: Event | None = None,
    progress: Progress = silent,
    *,
    ptxas: Path | None = None,
    keep_ptx: bool = False,
) -> list[Cubin]:
    """The cubin of each spec; equal specs are compiled once.

    `ptxas`: another one than Triton's, for GPUs whose driver is older than that. `progress` is
    called by this thread, with the fraction that is done. Setting `stop` ends the compile.

    Raises:
        LlmcError: LLMC-E0202, not for such a GPU; LLMC-E0703, no Triton; LLMC-E0706, a kernel is
            refused, or the compile was stopped; LLMC-E0701, the disk is full.
    """
    require_triton()
    require_sm(sm)
    jobs = [
        Job(spec, sm, str(ptxas.resolve()) if ptxas else "", keep_ptx)
        for spec in dict.fromkeys(specs)
    ]
    with _Workers(min(len(jobs), available_cores(), _MOST_WORKERS)) as workers:
        jobs.sort(key=lambda job: not job.spec.function.startswith(_LONG))
        futures = {workers.submit(job): job.spec for job in jobs}
        stage = f"compiling {len(jobs)} kernels for SM{sm}"
        _await([*futures], stop, lambda share: progress(stage, share))
        cubins = {spec: future.result() for future, spec in futures.items()}
    return [cubins[spec] for spec in specs]


def _await(
    futures: Sequence[Future[Cubin]], stop: Event | None, progress: Callable[[float], None]
) -> None:
    """Until all are done, or the first failure."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        if stop is not None and stop.is_set():
            raise LlmcError("LLMC-E0706", "the compile of kernels was stopped", "start it again")
        progress(1 - len(pending) / len(futures))


class _Workers:
    """Processes, and a thread for each, which waits for its answers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._pool = ThreadPoolExecutor(max(1, count))
        self._all: list[_Worker] = []

    def __enter__(self) -> _Workers:
        for _ in range(self._count):
            self._all.append(_Worker())
            self._idle.put(self._all[-1])
        return self

    def __exit__(self, *_: object) -> None:
        """All end at once, whatever they do: threads that wait for one get the end of a file."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.kill()
        self._pool.shutdown()
        for worker in self._all:
            worker.close()

    def submit(self, job: Job) -> Future[Cubin]:
        """Have one of them compile it."""
        return self._pool.submit(self._build, job)

    def _build(self, job: Job) -> Cubin:
        worker = self._idle.get()
        try:
            return worker.build(job)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmc.codegen.triton.cubin_worker"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # a group of its own, to be ended with its ptxas
        )

    def build(self, job: Job) -> Cubin:
        """See `build_kernel`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        data = b""
        with contextlib.suppress(BrokenPipeError):
            send(stdin, job)
            data = receive(stdout)
        if not data:
            raise self._crash(job.spec)
        answer = msgspec.msgpack.decode(data, type=Answer)
        if answer.cubin is None:
            assert answer.failure is not None
            raise LlmcError(answer.failure.id, answer.failure.message, answer.failure.hint)
        return answer.cubin

    def kill(self) -> None:
        """End it and its children now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close its files, after `kill` and when nobody reads them any more."""
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _crash(self, spec: KernelSpec) -> LlmcError:
        """What the process said last, which is LLVM's or Python's."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = next((line for line in lines if line.startswith("LLVM ERROR")), "")
        last = said or (lines[-1] if lines else "it said nothing")
        message = f"Triton ended while it compiled the kernel {spec.label}: {last}"
        return LlmcError("LLMC-E0706", message, "report it, with this message")


def _environment() -> dict[str, str]:
    """This process's, without what changes compiled kernels, and with one order of sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
    return kept | {"PYTHONHASHSEED": "0"}
