"""Where the time of a step goes: what each kernel took, what it moved, and a trace for Perfetto.

In: an artifact of target `cpu` or `triton`, and a load. Out: rows by kernel, steps of prompts and
of decoding apart, each with the share that its bytes a second are of what the memory was measured
to give; and every call of every kernel as Chrome trace events, which https://ui.perfetto.dev opens.

Times are those of the GPU, or of the first thread: what it waits for at a barrier counts for the
kernel before.
Bytes are those that a kernel has to move once; of small ones most never leave the caches, so a
share may be over 100%.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from ...artifact.program import Program, StepInputs, StepOutputs
from ...base.errors import LlmcError
from ...base.progress import Progress, silent
from ..engine.engine import Engine
from ..executors.cpu_profile import ARGMAX, END, Kernel, Traffic
from .benchmark import Load, check_context, random_prompts, read_gbs, run_once
from .model import load

_ARGMAX = Kernel("argmax_rows", "", ())


@dataclass(frozen=True)
class KernelTime:
    """One row: a kernel of one module, means over the steps of one kind ("prefill", "decode").

    `us`: of all its calls in a step; `bandwidth_fraction`: `gb_per_s` of what memory gives.
    """

    step: str
    kernel: str
    module: str
    calls: float
    us: float
    bytes: float
    gb_per_s: float
    bandwidth_fraction: float


@dataclass(frozen=True)
class KernelProfile:
    """All rows, the longest first; `steps`: how many there were of each kind."""

    rows: tuple[KernelTime, ...]
    steps: dict[str, int]
    memory_read_gbs: float


@dataclass(frozen=True)
class RecordedStep:
    """What ran: the inputs' sizes and the marks in the order of time."""

    inputs: StepInputs
    marks: list[tuple[int, int]]

    @property
    def kind(self) -> str:
        return "decode" if len(self.inputs.token_ids) == len(self.inputs.context_len) else "prefill"


class Profiler(Protocol):
    """Notes the kernels of the steps between `start` and `stop`."""

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """What the numbers of marks mean."""
        ...

    def start(self) -> None: ...
    def stop(self) -> list[tuple[int, int]]:
        """(kernel, nanoseconds) in the order of time."""
        ...


class _Recorder:
    """A program whose steps are recorded, one at a time; everything else is the program's own."""

    def __init__(self, program: Program, profiler: Profiler) -> None:
        self._program, self._profiler = program, profiler
        self.steps: list[RecordedStep] = []

    def __getattr__(self, name: str) -> Any:
        if name == "submit":  # steps under way side by side have no times of their own
            raise AttributeError(name)
        return getattr(self._program, name)

    def step(self, inputs: StepInputs) -> StepOutputs:
        self._profiler.start()
        try:
            outputs = self._program.step(inputs)
        finally:
            marks = self._profiler.stop()
        self.steps.append(RecordedStep(inputs, marks))
        return outputs


def profile(
    path: str | Path, shape: Load, trace: str | Path, *, progress: Progress = silent
) -> KernelProfile:
    """Run the load once after a warm-up, write the trace, return the table.

    Raises:
        LlmcError: those of `load`; E0241 if the program can't tell its kernels; E0204 if the
            sequences exceed the context; E0701 if the trace can't be written.
    """
    progress("profiling", 0.0)
    with load(path, target=shape.target, threads=shape.threads) as model:
        check_context(model, shape)
        profiler = _profiler_of(model.program)
        prompts = random_prompts(model, replace(shape, repeat=1))
        run_once(model.engine, prompts[0], min(4, shape.output_tokens))
        recorder: Any = _Recorder(model.program, profiler)
        run_once(Engine(recorder), prompts[1], shape.output_tokens)
        bandwidth = read_gbs(model.program, shape.threads)
    write_trace(trace, recorder.steps, profiler.kernels)
    return summarize(recorder.steps, profiler.kernels, bandwidth)


def _profiler_of(program: Any) -> Profiler:
    profiler = program.profiler() if hasattr(program, "profiler") else None
    if profiler is None:
        raise LlmcError(
            "LLMC-E0241", "only programs of targets cpu and triton tell what their kernels take"
        )
    return profiler


def summarize(
    steps: Sequence[RecordedStep], kernels: Sequence[Kernel], memory_gbs: float
) -> KernelProfile:
    """The rows of recorded steps."""
    counts: dict[str, int] = defaultdict(int)
    totals: dict[tuple[str, Kernel], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for step in steps:
        counts[step.kind] += 1
        for kernel, begin, end in _spans(step.marks, kernels):
            total = totals[step.kind, _merged(kernel)]
            total[0] += 1
            total[1] += (end - begin) / 1e3
            total[2] += moved_bytes(kernel.traffic, step.inputs)
    rows = [
        _row(kind, kernel, [value / counts[kind] for value in total], memory_gbs)
        for (kind, kernel), total in totals.items()
    ]
    rows.sort(key=lambda row: (row.step != "decode", -row.us))
    return KernelProfile(tuple(rows), dict(counts), memory_gbs)


def _row(kind: str, kernel: Kernel, means: Sequence[float], memory_gbs: float) -> KernelTime:
    calls, us, nbytes = means
    speed = nbytes / max(us, 1e-3) / 1e3
    return KernelTime(kind, kernel.name, kernel.scope, calls, us, nbytes, speed, speed / memory_gbs)


def _merged(kernel: Kernel) -> Kernel:
    """The same module of every layer as one: numbers between dots say which layer it is."""
    parts = kernel.scope.split(".")
    scope = ".".join("*" if part.isdigit() else part for part in parts)
    return Kernel(kernel.name, scope.removeprefix("model.layers.*."), ())


def _spans(
    marks: Sequence[tuple[int, int]], kernels: Sequence[Kernel]
) -> Iterator[tuple[Kernel, int, int]]:
    """Each kernel with its first and last nanosecond."""
    for (number, begin), (_, end) in pairwise(marks):
        if number != END:
            yield (_ARGMAX if number == ARGMAX else kernels[number]), begin, end


def moved_bytes(traffic: Iterable[Traffic], inputs: StepInputs) -> int:
    """What a kernel moves in a step of these sizes."""
    sequences = len(inputs.context_len)
    sizes = {
        "": 1,
        "T": len(inputs.token_ids),
        "S": sequences,
        "S1": sequences + 1,
        "R": len(inputs.logits_rows),
    }
    total = 0
    for nbytes, unit, most in traffic:
        if unit == "C":
            total += nbytes * sum(min(seen, most or seen) for seen in inputs.context_len)
        else:
            total += min(nbytes * sizes[unit], most or nbytes * sizes[unit])
    return total


def write_trace(path: str | Path, steps: Sequence[RecordedStep], kernels: Sequence[Kernel]) -> None:
    """Write Chrome trace events: a complete event a step and one a kernel, in microseconds.

    Raises:
        LlmcError: E0701, the file can't be written.
    """
    start = steps[0].marks[0][1] if steps and steps[0].marks else 0
    events = [event for step in steps for event in _events(step, kernels, start)]
    try:
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))
    except OSError as error:
        raise LlmcError("LLMC-E0701", f"{path} can't be written: {error.strerror}") from error


def _events(step: RecordedStep, kernels: Sequence[Kernel], start: int) -> Iterator[dict[str, Any]]:
    if not step.marks:
        return
    inputs = step.inputs
    sizes = {"tokens": len(inputs.token_ids), "sequences": len(inputs.context_len)}
    yield _event(f"{step.kind} step", step.marks[0][1], step.marks[-1][1], start, 0, sizes)
    for kernel, begin, end in _spans(step.marks, kernels):
        said = {"module": kernel.scope, "bytes": moved_bytes(kernel.traffic, inputs)}
        yield _event(kernel.name, begin, end, start, 1, said)


def _event(
    name: str, begin: int, end: int, start: int, row: int, arguments: dict[str, Any]
) -> dict[str, Any]:
    """`row`: steps lie over their kernels, which Perfetto shows as rows of one process."""
    times = {"ts": (begin - start) / 1e3, "dur": (end - begin) / 1e3}
    return {"name": name, "ph": "X", "pid": 1, "tid": row, **times, "args": arguments}


def describe_profile(found: KernelProfile) -> str:
    """The table for people, a part for each kind of step."""
    parts = []
    for kind, count in sorted(found.steps.items()):
        rows = [row for row in found.rows if row.step == kind]
        whole = sum(row.us for row in rows)
        lines = [
            f"{kind}: mean of {count} step{'s' * (count > 1)}, {whole:.0f} µs each; "
            f"memory reads at {found.memory_read_gbs:.1f} GB/s",
            f"{'kernel':24}{'module':32}{'calls':>7}{'µs':>9}{'MB':>9}{'GB/s':>7}{'limit':>7}",
        ]
        lines += [
            f"{row.kernel[:23]:24}{row.module[:31]:32}{row.calls:7.0f}{row.us:9.1f}"
            f"{row.bytes / 1e6:9.3f}{row.gb_per_s:7.1f}{row.bandwidth_fraction:7.0%}"
            for row in rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
