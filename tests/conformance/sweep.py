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
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import sweep_subjects as of
from sweep_page import (
    DIFFERENT,
    EQUAL,
    FAILS,
    HANGS,
    OTHER,
    REFUSED,
    UNBUILT,
    WORST_FIRST,
    Sweep,
    summary,
)

RESULTS = Path(__file__).with_name("sweep.json")
SECONDS = 180
"""Of processor time, which doesn't depend on what else the machine does."""
_PATIENCE = 8
"""How many times that may pass on the clock."""
TOLERANCE = 1e-4

Result = dict[str, Any]


def attempt(model_type: str, subject: str, compiled: bool) -> Result:
    """Try one subject in this process."""
    try:
        config = of.small_config(model_type, subject)
    except of.NoSubjectError as error:
        return {"status": UNBUILT, "cause": str(error)}
    except of.OtherKindError as error:
        return {"status": OTHER, "cause": str(error)}
    result = _outcome(partial(_interpreted, config))
    if compiled and result["status"] != OTHER:
        result["cpu"] = _outcome(partial(_compiled, config))
    return result | {"seconds": round(time.process_time(), 1)}


def _outcome(tried: Callable[[], Result]) -> Result:
    """What `tried` finds, or what stops it."""
    from llmc.base.errors import LlmcError

    try:
        return tried()
    except LlmcError as error:
        return {"status": REFUSED, "error": error.id, "cause": error.message}
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({place})"
        return {"status": FAILS, "cause": cause}


def _interpreted(config: Any) -> Result:
    """How the graph of a narrow config answers."""
    from configured import configured
    from llmc.compiler.frontend import probe
    from sweep_kinds import why_no_decoder

    why = why_no_decoder(probe.eager_model(config))
    if why is not None:
        return {"status": OTHER, "cause": why}
    return _verdict(*probe.compare(config, [configured("cpu").features]).values())


def _verdict(report: Any) -> Result:
    worst = float(f"{report.worst:.1e}")
    if worst <= TOLERANCE:
        return {"status": EQUAL, "worst": worst}
    return {"status": DIFFERENT, "worst": worst, "cause": report.where}


def _compiled(config: Any) -> Result:
    """How the program of a narrow config answers, compiled from a checkpoint and loaded."""
    from llmc.compiler import driver
    from llmc.compiler.frontend import probe
    from llmc.models.conformance import run_schedule
    from llmc.models.eager import fix_rope, reference_texts
    from llmc.runtime.api.model import load

    model = probe.eager_model(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "checkpoint")
        with mock.patch.object(driver, "probe", return_value="probe: left out"):
            driver.compile(
                str(folder / "checkpoint"), target="cpu", scheme="f32",
                output=folder / "model.llmc", max_context=probe.CONTEXT,
            )  # fmt: skip
        texts = reference_texts(fix_rope(model, probe.CONTEXT), probe.CONTEXT, probe.SEED)
        with load(folder / "model.llmc", threads=1) as loaded:
            return _verdict(run_schedule(loaded.program, texts, max_context=probe.CONTEXT))


def apart(model_type: str, subject: str, compiled: bool) -> Result:
    """`attempt` in a process of its own, whose end or silence is a result as well."""
    command = [sys.executable, __file__, "--one", model_type, subject] + ["--cpu"] * compiled
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
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
    return json.loads(lines[-1])


def attempt_type(model_type: str, compiled: bool) -> Result:
    """All subjects of a type."""
    found = {name: apart(model_type, name, compiled) for name in of.subjects(model_type)}
    return {"status": _status(found), "subjects": found}


def _status(subjects: dict[str, Result]) -> str:
    """The worst status of a type's subjects.

    What transformers can't build says something only where nothing else of the type can be.
    """
    found = {r["status"] for one in subjects.values() for r in (one, one.get("cpu", one))}
    return min(found - {UNBUILT} or found, key=WORST_FIRST.index)


def _with_programs(result: Result, known: Result | None) -> Result:
    """A result that was found without compiling, with what is known of programs."""
    old = known["subjects"] if known else {}
    subjects = {
        name: found | {"cpu": old[name]["cpu"]} if "cpu" in old.get(name, {}) else found
        for name, found in result["subjects"].items()
    }
    return {"status": _status(subjects), "subjects": subjects}


def read() -> Sweep:
    """Results so far."""
    if RESULTS.exists():
        return json.loads(RESULTS.read_text())
    return {"versions": {}, "types": {}}


def write(sweep: Sweep) -> None:
    """Keep results."""
    versions = {name: version(name) for name in ("transformers", "torch")}
    types = {name: sweep["types"][name] for name in sorted(sweep["types"])}
    kept = {"versions": versions, "listed": len(of.model_types()), "types": types}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def line(name: str, result: Result) -> str:
    """One line for the terminal."""
    parts = []
    for subject, found in result["subjects"].items():
        worst = f" {found['worst']:.1e}" if "worst" in found else ""
        worst += f" (cpu: {found['cpu']})" if "cpu" in found else ""
        why = f" {found.get('error', '')} {found['cause'][:140]}" if "cause" in found else ""
        parts.append(f"{subject}: {found['status']}{worst} {found.get('seconds', 0):.0f} s{why}")
    return f"{name:24} {' | '.join(parts)}"


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
        name, subject = chosen.one
        print(json.dumps(attempt(name, subject, chosen.cpu)))
        return 0
    sweep = read()
    known = sweep["types"]
    types = [t for t in of.model_types() if not chosen.only or t in chosen.only]
    if chosen.missing:
        types = [t for t in types if t not in known]
    lost = []
    for name, result in _tried(types, chosen.jobs, chosen.cpu):
        print(line(name, result), flush=True)
        if known.get(name, {}).get("status") == EQUAL != result["status"]:
            lost.append(name)
        known[name] = result if chosen.cpu else _with_programs(result, known.get(name))
        if not chosen.compare:
            write(sweep)
    print(summary(sweep))
    if lost:
        print(f"no longer equal: {', '.join(lost)}")
    elif not chosen.compare:
        compatibility = import_module("compatibility")  # torch and all, which tries don't need here
        compatibility.write({})
    return int(bool(chosen.compare and lost))


if __name__ == "__main__":
    sys.exit(main())
