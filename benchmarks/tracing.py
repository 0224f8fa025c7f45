"""How long a published config takes from its JSON to a serving graph, and how much memory.

    python benchmarks/tracing.py llama-3.1-70b.json deepseek-v3.json
    python benchmarks/tracing.py qwen3-30b-a3b.json --profile trace.prof

No weights are needed: the model is built on the meta device at its real width and depth,
exported, imported, and lowered to phase SERVING. Each config gets a fresh process a round; figures
are medians, in seconds of wall time, with processor time in brackets (all threads). `imports` is
torch and transformers. Phases that take less than a fiftieth of the total are added up as `other`.
`peak MB` is the most memory that the process ever held.

A checkpoint's own number format (`quantization_config`) is left out of the config, as the compile
does after it has read the weights with it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

Seconds = dict[str, list[float]]
"""Phase → wall and processor seconds, in the order of phases."""


@contextmanager
def timed(seconds: Seconds, phase: str) -> Iterator[None]:
    """Add the wall and processor time of the block to `seconds[phase]`."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        total = seconds.setdefault(phase, [0.0, 0.0])
        total[0] += time.perf_counter() - wall
        total[1] += time.process_time() - cpu


def wrap(seconds: Seconds, module: Any, name: str, phase: str) -> None:
    """Time every call of `module.name` from now on."""
    function: Callable[..., Any] = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with timed(seconds, phase):
            return function(*args, **kwargs)

    setattr(module, name, call)


def trace_one(path: Path, scheme: str, context: int, profile: str | None) -> dict[str, Any]:
    """The figures of one config, in this process."""
    seconds: Seconds = {}
    with timed(seconds, "imports"):
        import torch
        from llmc.compiler.frontend import lower, trace
        from llmc.passes import pipeline
        from llmc.passes.features import OWN_KERNELS
        from llmc.passes.quantize import SCHEMES
        from transformers import AutoConfig

    torch.set_num_threads(1)  # as the compile does
    raw = {k: v for k, v in json.loads(path.read_text()).items() if k != "quantization_config"}
    config = AutoConfig.for_model(raw.pop("model_type"), **raw)
    wrap(seconds, trace, "build_on_meta", "build")
    wrap(seconds, torch.export, "export", "export")
    wrap(seconds, torch.export.ExportedProgram, "run_decompositions", "decompose")
    wrap(seconds, lower, "import_graph", "import")
    wrap(seconds, pipeline, "verify", "verify")
    total: Seconds = {}
    profiler = cProfile.Profile() if profile else None
    with timed(total, "total"), profiler or nullcontext():
        made = lower.lower_model(config, context, lower.own_tensors, SCHEMES[scheme], OWN_KERNELS)
    if profiler and profile:
        profiler.dump_stats(profile)
    for done in made.passes:
        seconds[done.name] = [done.seconds] * 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds | total, "nodes": made.passes[0].nodes, "peak MB": peak}


def measure(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one config, in a fresh process.

    Raises:
        SystemExit: the config can't be lowered; what it wrote to stderr was passed on.
    """
    command = [sys.executable, __file__, path, "--inside", "--scheme", options.scheme]
    command += ["--max-context", str(options.max_context)]
    command += ["--profile", options.profile] if options.profile else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{path}: can't be lowered")
    return json.loads(done.stdout.splitlines()[-1])


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One result out of several: medians of each phase, the highest peak."""
    phases = {
        phase: [statistics.median(run["seconds"][phase][i] for run in runs) for i in range(2)]
        for phase in runs[0]["seconds"]
    }
    return runs[0] | {"seconds": phases, "peak MB": max(run["peak MB"] for run in runs)}


def show(path: str, result: dict[str, Any]) -> None:
    """One line for the config, one for its phases."""
    seconds = dict(result["seconds"])
    total = seconds.pop("total")
    imports = seconds.pop("imports")
    shown = {k: v for k, v in seconds.items() if v[0] > total[0] / 50}
    shown["other"] = [total[i] - sum(v[i] for v in shown.values()) for i in range(2)]
    print(
        f"{Path(path).stem}: {format_time(total)} s, imports {format_time(imports)}, "
        f"peak {result['peak MB']:.0f} MB, {result['nodes']} nodes traced"
    )
    print("   ", ", ".join(f"{k} {format_time(v)}" for k, v in shown.items()), flush=True)


def format_time(pair: list[float]) -> str:
    return f"{pair[0]:.1f} ({pair[1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="+", help="config.json of transformers")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--max-context", type=int, default=8192)
    parser.add_argument("--profile", metavar="FILE", help="write cProfile's statistics (slower)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        path, profile = Path(options.configs[0]), options.profile
        print(json.dumps(trace_one(path, options.scheme, options.max_context, profile)))
        return
    results = {}
    for path in options.configs:
        results[path] = median([measure(path, options) for _ in range(options.rounds)])
        if not options.json:
            show(path, results[path])
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
