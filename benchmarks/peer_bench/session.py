"""One run of the benchmark: environments, models, compiles, measurements, report.

In: what was asked for. Out: a `Report`. A peer that can't be had is named in it with the reason,
and so is a contender whose model can't be converted or that fails while it is measured.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmc.base.errors import LlmcError
from llmc.base.machine import native_features, total_memory

from .cases import OURS, TARGETS, Contender, Group, Model, Scheme, groups
from .environments import ENVIRONMENTS, PeerMissing, ensure, versions
from .models import Converter, compile_command, model_folder
from .results import Report, rows_of
from .rounds import Processes, run_group

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What to measure, and how."""

    models: Sequence[str]
    schemes: Sequence[Scheme]
    cases: Sequence[str]
    peers: Sequence[str]
    rounds: int
    threads: int
    pythons: Mapping[str, Path] = field(default_factory=dict)
    under: Sequence[str] = ()
    patience: float = 60
    keep_artifacts: bool = False
    targets: Sequence[str] = TARGETS[:1]


def run(asked: Asked, say: Say, keep: Callable[[Report], None]) -> Report:
    """Measure everything; `keep` gets the report after every case, so that none is lost."""
    report = Report(datetime.now(UTC).date().isoformat(), describe_machine(asked.threads))
    report.versions[OURS] = {"llmc": version("llmc-compiler")}
    todo = groups(
        list(asked.models), list(asked.schemes), list(asked.cases), list(asked.peers), asked.targets
    )
    pythons = _peers(asked, todo, report, say)
    with TemporaryDirectory(prefix="llmc-peers-") as folder:
        processes = Processes(asked.threads, pythons, Path(folder), asked.under, asked.patience)
        files = _Files(Converter(pythons, say), processes, report, asked.keep_artifacts)
        for number, group in enumerate(todo, 1):

            def tell(text: str, place: str = f"[{number}/{len(todo)}]") -> None:
                say(f"{place} {text}")

            paths, absent = files.of(group, tell)
            measured = run_group(group, paths, asked.rounds, processes, tell)
            report.rows += rows_of(measured, absent)
            keep(report)
    return report


def _peers(asked: Asked, todo: list[Group], report: Report, say: Say) -> dict[str, Path]:
    """Python of every peer that takes part; the report says which versions, and who is missing."""
    pythons = {}
    taking = {contender.peer for group in todo for contender in group.contenders}
    for name in (name for name in asked.peers if name in taking):
        try:
            python = asked.pythons.get(name)
            if python is None:
                python = ensure(name, say)
            report.versions[name] = versions(python, name)
            pythons[name] = python
        except (PeerMissing, OSError) as error:
            report.missing[name] = str(error)
            say(f"{ENVIRONMENTS[name].label} is missing: {error}")
    return pythons


@dataclass
class _Files:
    """The model file of each contender, made when it is first needed, or why there is none."""

    converter: Converter
    processes: Processes
    report: Report
    keep_artifacts: bool
    ready: dict[tuple[str, ...], Path] = field(default_factory=dict)
    absent: dict[tuple[str, ...], str] = field(default_factory=dict)

    def of(self, group: Group, say: Say) -> tuple[dict[str, Path], dict[str, str]]:
        """Paths by label, and reasons by label."""
        paths, reasons = {}, {}
        for contender in group.contenders:
            key = (group.model.name, contender.peer, contender.target, contender.format)
            if key not in self.ready and key not in self.absent:
                try:
                    self.ready[key] = self._make(group.model, contender, say)
                except (PeerMissing, LlmcError) as error:
                    self.absent[key] = str(error)
            if key in self.ready:
                paths[contender.label] = self.ready[key]
            else:
                reasons[contender.label] = self.absent[key]
        return paths, reasons

    def _make(self, model: Model, contender: Contender, say: Say) -> Path:
        if contender.peer in self.report.missing:
            raise PeerMissing(self.report.missing[contender.peer])
        if contender.peer != OURS:
            return self.converter.path(model, contender)
        return self._compile(model, contender, say)

    def _compile(self, model: Model, contender: Contender, say: Say) -> Path:
        """Compile with llmc: anew unless told otherwise, since the compiler is measured too."""
        words = [contender.target] if contender.target != TARGETS[0] else []
        scheme = ".".join([contender.format, *words])
        target = model_folder() / f"{model.name}.{scheme}.llmc"
        if self.keep_artifacts and target.exists():
            return target
        say(f"compiling {model.name} to {scheme}")
        command = compile_command(model, self.converter.source(model), contender, target)
        answer = self.processes.compile(command)
        if "error" in answer:
            raise PeerMissing(f"llmc compile: {answer['error']}")
        fields = {name: answer[name] for name in ("seconds", "peak_rss_mb", "bytes")}
        fields["wall_s"] = answer["ended_at"] - answer["started_at"]
        self.report.compiles.append({"model": model.name, "scheme": scheme, **fields})
        return target


def describe_machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(total_memory() / 1e9),
        "features": sorted(set(native_features()) & _TELLING),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


_TELLING = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "avx_vnni"}
"""Features that say which products the CPU can do."""
