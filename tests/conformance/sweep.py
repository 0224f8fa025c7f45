"""Tries every model type of the installed transformers, and makes the first table of the docs.

    python tests/conformance/sweep.py [--only TYPE …] [--cpu] [--jobs N] [--missing] [--compare]

Each type for which transformers has a causal language model is tried with small models of its own
(`sweep_subjects.py`), each in a process of its own: traced, lowered with the features of the `cpu`
target, interpreted over the schedule of `models/conformance.py`, and compared with what a user
calls: transformers eager on token ids, without a cache. With `--cpu` it is compiled and run, too.
What comes out is kept in sweep.json beside this file, after each type, and the table is made of it.

`--missing` tries only what has no result yet, so that a sweep that was ended goes on. `--compare`
writes nothing and fails if a type that was equal no longer is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

import sweep_subjects as of

RESULTS = Path(__file__).with_name("sweep.json")
SECONDS = 180
"""Of processor time, which doesn't depend on what else the machine does; of the clock
`_PATIENCE` times that."""
_PATIENCE = 4
TOLERANCE = 1e-4
EQUAL, DIFFERENT, REFUSED, FAILS, HANGS, OTHER, UNBUILT = (
    "equal", "different", "refused", "internal error", "hang", "no decoder", "not built",
)  # fmt: skip
_WORST_FIRST = (DIFFERENT, FAILS, HANGS, REFUSED, UNBUILT, OTHER, EQUAL)

Result = dict[str, Any]


def attempt(model_type: str, subject: str, compiled: bool) -> Result:
    """Try one subject in this process."""
    from llmc.base.errors import LlmcError

    try:
        config = of.small_config(model_type, subject)
        return _compared(config, compiled)
    except of.NoSubjectError as error:
        return {"status": UNBUILT, "cause": str(error)}
    except LlmcError as error:
        return {"status": REFUSED, "error": error.id, "cause": error.message}
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({place})"
        return {"status": FAILS, "cause": cause}


def _compared(config: Any, compiled: bool) -> Result:
    """How graph and program of a narrow config answer."""
    from configured import configured
    from llmc.compiler.frontend import probe
    from sweep_kinds import why_no_decoder

    why = why_no_decoder(probe._eager_model(config))
    if why is not None:
        return {"status": OTHER, "cause": why}
    (report,) = probe.compare(config, [configured("cpu").features]).values()
    result = {"status": EQUAL if report.worst <= TOLERANCE else DIFFERENT, "worst": report.worst}
    if result["status"] == DIFFERENT:
        result["cause"] = report.where
    return result


def apart(model_type: str, subject: str, compiled: bool) -> Result:
    """`attempt` in a process of its own, whose end or silence is a result as well."""
    command = [sys.executable, __file__, "--one", model_type, subject] + ["--cpu"] * compiled
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE * SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"status": HANGS, "cause": f"over {_PATIENCE * SECONDS} s"}
    lines = done.stdout.splitlines()
    if done.returncode == -24:  # SIGXCPU
        return {"status": HANGS, "cause": f"over {SECONDS} s of processor time"}
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"status": FAILS, "cause": last[:300]}
    return json.loads(lines[-1]) | {"seconds": round(time.monotonic() - began, 1)}


def attempt_type(model_type: str, compiled: bool) -> Result:
    """All subjects of a type; its status is that of the worst of them."""
    found = {name: apart(model_type, name, compiled) for name in of.subjects(model_type)}
    status = min((r["status"] for r in found.values()), key=_WORST_FIRST.index)
    return {"status": status, "subjects": found}


def read() -> dict[str, Result]:
    """Results so far, by type."""
    return json.loads(RESULTS.read_text())["types"] if RESULTS.exists() else {}


def write(results: dict[str, Result]) -> None:
    """Keep results."""
    versions = {name: version(name) for name in ("transformers", "torch")}
    ordered = {name: results[name] for name in sorted(results)}
    RESULTS.write_text(json.dumps({"versions": versions, "types": ordered}, indent=1) + "\n")


def line(name: str, result: Result) -> str:
    """One line for the terminal."""
    parts = []
    for subject, found in result["subjects"].items():
        worst = f" {found['worst']:.1e}" if "worst" in found else ""
        why = f" {found.get('error', '')} {found['cause'][:140]}" if "cause" in found else ""
        parts.append(f"{subject}: {found['status']}{worst} {found.get('seconds', 0):.0f} s{why}")
    return f"{name:24} {' | '.join(parts)}"


def summary(results: dict[str, Result]) -> str:
    """How many decoders match."""
    decoders = [r for r in results.values() if r["status"] != OTHER]
    matching = sum(r["status"] == EQUAL for r in decoders)
    return f"{matching} of {len(decoders)} decoders match"


def _tried(types: list[str], jobs: int, compiled: bool) -> Iterator[tuple[str, Result]]:
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(types, pool.map(lambda t: attempt_type(t, compiled), types), strict=True)


def main(arguments: Iterable[str] | None = None) -> int:
    """Try the types that were asked for; 1 if one was lost."""
    parser = argparse.ArgumentParser(description="Try every model type of transformers.")
    parser.add_argument("--only", nargs="+", metavar="TYPE")
    parser.add_argument("--cpu", action="store_true", help="compile for the cpu and run as well")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--missing", action="store_true", help="only types without a result")
    parser.add_argument("--compare", action="store_true", help="write nothing, fail on a loss")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.one:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        print(json.dumps(attempt(*chosen.one, chosen.cpu)))
        return 0
    known = read()
    types = [t for t in of.model_types() if not chosen.only or t in chosen.only]
    if chosen.missing:
        types = [t for t in types if t not in known]
    lost = []
    for name, result in _tried(types, chosen.jobs, chosen.cpu):
        print(line(name, result), flush=True)
        if known.get(name, {}).get("status") == EQUAL != result["status"]:
            lost.append(name)
        known[name] = result
        if not chosen.compare:
            write(known)
    print(summary(known))
    if lost:
        print(f"no longer equal: {', '.join(lost)}")
    return int(bool(chosen.compare and lost))


if __name__ == "__main__":
    sys.exit(main())
