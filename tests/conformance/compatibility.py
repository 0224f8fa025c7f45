"""Makes docs/compatibility.md: which family runs on which target in which scheme, by trying.

Its first table, of model types, is made of what `sweep.py` has found.

    python tests/conformance/compatibility.py [--target NAME] [--family NAME] [--scheme NAME] …

tries these cells again (default: all of them, which takes hours) and writes what came out into
compatibility.json beside this file and, as a table, into docs/compatibility.md. The tests check
that the two belong together and try a few cells again.

A cell is compiled from a checkpoint folder into an artifact, loaded, and driven through the
schedule of `models/conformance.py`. In f32 it is compared with transformers eager. In other schemes
with the interpreter on the graph of that target and scheme, which has the same rounded weights: so
a difference is what the program computes otherwise, not what rounding costs.

Programs of `triton` need a GPU, and their kernels take long to compile: here the launch plan is run
by the runtime's executor on a fake GPU, whose kernels are the ops' references.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import numpy as np
import torch
from configured import configured
from llmc.artifact.manifest import Limits
from llmc.artifact.program import StepInputs
from llmc.artifact.targets import SCHEMES as SCHEME_NAMES
from llmc.base.errors import LlmcError
from llmc.compiler import driver
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.interpreted_slots import InterpretedSlots
from llmc.ir.ops import CACHE_BLOCK
from llmc.models.conformance import Report, Text, run_schedule
from llmc.models.eager import fix_rope, reference_texts
from llmc.runtime.api.model import load
from llmc.weights.values import RecipeValues
from planned_program import planned
from sweep_page import section
from tiny_model import ZooModel
from zoo import ZOO

HERE = Path(__file__).parent
SWEEP = HERE / "sweep.json"
RESULTS, DOCUMENT = HERE / "compatibility.json", HERE.parents[1] / "docs" / "compatibility.md"

Result = dict[str, str | float]
"""`status` (see `_LEGEND`), and `worst` or `error`."""
Results = dict[str, Result]


@dataclass(frozen=True)
class Column:
    """A target with options, as the table names it."""

    title: str
    target: str
    options: tuple[tuple[str, str], ...] = ()

    levels: tuple[str, ...] = ()

    def configured(self, scheme: str) -> Any:
        options: dict[str, Any] = dict(self.options)
        return configured(self.target, scheme, levels=self.levels, **options)


COLUMNS = (
    Column("cpu", "cpu"),
    Column("onnx", "onnx"),
    Column("onnx, dialect standard", "onnx", (("dialect", "standard"),)),
    Column("trt", "trt"),
    Column("triton", "triton", levels=("90",)),
    Column("inductor", "inductor"),
)
"""A new target or dialect gets a line here (a test says so)."""
NOT_RUN = "not run"
_LEGEND = {
    "conforms": "a number: it runs, and this is the largest difference of a logit, as a share of "
    "its row's range;",
    "differs": "a number with `!`: it runs, but the difference is over the tolerance;",
    "routes": "a number with `~`: the median row is within the tolerance, but rounding moves the "
    "router of some others to other experts;",
    "refused": "an error id: refused before weights are read (`llmc explain ID`);",
    "fails": "an error id with `!`: it should be done, and isn't;",
    "planned": "a number in parentheses: its plan runs, with the runtime's executor, on a fake GPU "
    "that finishes late and whose kernels are the ops' references; no GPU has run it yet, and "
    "kernels are tested by themselves (docs/triton.md);",
    "built": "built: compiled, but there was no machine to run it on;",
    NOT_RUN: "not run: nobody has tried yet.",
}
_REFUSALS = (2, 4)
"""Exit codes: what was asked for can't be done, or the model can't."""
_FAKE = ("triton",)
"""Targets that run on a fake GPU here."""
_FAKE_BLOCKS = 11
_NO_MACHINE = ("LLMC-E0506", "LLMC-E0507", "LLMC-E0514", "LLMC-E0703")
"""What loading says where the program's device or its driver isn't there."""
TOLERANCE = {"f32": 1e-4}
ROUNDED_TOLERANCE = 0.06
"""Caches and activations that are rounded as they are computed: what differs in the last bit may
fall to the other side, and random weights make logits that small errors move."""


@dataclass(frozen=True)
class Cell:
    """One family in one scheme on one target."""

    model: ZooModel
    column: Column
    scheme: str

    @property
    def key(self) -> str:
        return f"{self.model.name} | {self.column.title} | {self.scheme}"


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for column in COLUMNS:
        for model in ZOO:
            for scheme in SCHEME_NAMES:
                yield Cell(model, column, scheme)


def attempt(cell: Cell) -> Result:
    """Compile, load, run, compare."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            cell.column.configured(cell.scheme)
            if cell.column.target in _FAKE:
                return _run_plan(cell)
            path = _compile(cell, Path(folder))
        except LlmcError as error:
            status = "refused" if error.exit_code in _REFUSALS else "fails"
            return {"status": status, "error": error.id}
        try:
            return _compare(cell, path)
        except LlmcError as error:
            if error.id in _NO_MACHINE:
                return {"status": "built"}
            return {"status": "fails", "error": error.id}


def _run_plan(cell: Cell) -> Result:
    """What the plan gives with references in place of kernels; `planned` if it is right."""
    program = planned(cell.model, cell.scheme).by_references(_FAKE_BLOCKS, seed=1)
    try:
        report = run_schedule(program, _references(cell), max_context=cell.model.max_context)
    finally:
        program.close()
    status = _status(cell, report)
    known = {"conforms": "planned"}.get(status, status)
    return {"status": known, "worst": float(f"{report.worst:.1e}")}


def _compile(cell: Cell, folder: Path) -> Path:
    checkpoint, path = cell.model.save(folder / "checkpoint"), folder / "model.llmc"
    with mock.patch.object(driver, "probe", return_value="probe: left out"):
        driver.compile(
            str(checkpoint),
            target=cell.column.target,
            target_options={cell.column.target: dict(cell.column.options)},
            scheme=cell.scheme,
            output=path,
            max_context=cell.model.max_context,
        )
    return path


def _compare(cell: Cell, path: Path) -> Result:
    texts = _references(cell)
    with load(path, threads=2) as model:
        report = run_schedule(model.program, texts, max_context=cell.model.max_context)
    return {"status": _status(cell, report), "worst": float(f"{report.worst:.1e}")}


def _status(cell: Cell, report: Report) -> str:
    tolerance = TOLERANCE.get(cell.scheme, ROUNDED_TOLERANCE)
    if report.rows < 80:
        return "differs"
    if report.worst <= tolerance:
        return "conforms"
    has_experts = any("expert" in name for name in cell.model.config)
    rounded = cell.scheme != "f32" and np.median(report.shares) <= tolerance
    return "routes" if has_experts and rounded else "differs"


def _references(cell: Cell) -> list[Text]:
    """The texts of the schedule with the logits that the cell's program should give."""
    context = cell.model.max_context
    eager = fix_rope(cell.model.build(), context)
    texts = reference_texts(eager, context)
    if cell.scheme == "f32":
        return texts
    target = cell.column.configured(cell.scheme)
    graph = lower_model(
        cell.model.configuration(), context, own_tensors, target.scheme, target.features
    ).graph
    values, known = RecipeValues(StateReader(eager.state_dict())), {}

    def constant(value: object) -> torch.Tensor:
        if value not in known:
            known[value] = tensor_of(values, value)  # type: ignore[arg-type]
        return known[value]

    slots = target.features.uniform_query
    limits = Limits(
        max_tokens=context,
        max_sequences=1,
        max_context=context,
        max_logits_rows=context,
        block_size=2 * context if slots else CACHE_BLOCK,
        uniform_query=slots,
    )
    blocks = 1 if slots else -(-context // CACHE_BLOCK)
    kind = InterpretedSlots if slots else InterpretedProgram
    program = kind(graph, limits, blocks, constant)
    return [Text(text.token_ids, _logits(program, text, blocks)) for text in texts]


def _logits(program: InterpretedProgram | InterpretedSlots, text: Text, blocks: int):
    """What a program says after each token of a text that is the only one."""
    count = len(text.token_ids)
    inputs = StepInputs(
        token_ids=text.token_ids.tolist(),
        positions=list(range(count)),
        query_start=[0, count],
        context_len=[count],
        logits_rows=list(range(count)),
        block_tables=tuple([list(range(blocks))] for _ in program.cache_groups),
    )
    return program.step(inputs).logits.copy()


def render(results: Results) -> str:
    """The page."""
    lines = [
        "# Compatibility",
        "",
        *section(json.loads(SWEEP.read_text())),
        "",
        "## Families and targets",
        "",
        "Made by `python tests/conformance/compatibility.py`, which compiles and runs each cell;",
        "not written by hand. Families are those of the conformance zoo (`tests/helpers/zoo.py`):",
        "small random models of each architecture and feature, driven through the schedule that",
        "every target has to pass. In f32 the reference is transformers eager; in other schemes it",
        "is the interpreter with the same rounded weights, so a number says what the program",
        "computes otherwise, not what rounding costs. A cell is",
        "",
        *(f"- {text}" for text in _LEGEND.values()),
        "",
        f"The tolerance is {TOLERANCE['f32']:.0e} in f32 and {ROUNDED_TOLERANCE} elsewhere, where",
        "caches and activations are rounded on the way and what differs in the last bit may fall",
        "to the other side.",
    ]
    for column in COLUMNS:
        lines += ["", f"### {column.title}", "", f"| family | {' | '.join(SCHEME_NAMES)} |"]
        lines.append("|---" * (len(SCHEME_NAMES) + 1) + "|")
        for model in ZOO:
            found = (results.get(Cell(model, column, s).key) for s in SCHEME_NAMES)
            lines.append(f"| {model.name} | {' | '.join(map(_text, found))} |")
    return "\n".join(lines) + "\n"


def _text(result: Result | None) -> str:
    if result is None:
        return NOT_RUN
    if result["status"] == "built":
        return "built"
    text = str(result["error"]) if "error" in result else f"{result['worst']:.1e}"
    if result["status"] == "planned":
        return f"({text})"
    return text + {"differs": "!", "fails": "!", "routes": "~"}.get(str(result["status"]), "")


def read() -> Results:
    """The results so far."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    return json.loads(text) if text else {}


def write(results: Results) -> None:
    """Add results and make the page anew; others may do the same at once."""
    with RESULTS.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        merged = read() | results
        ordered = {cell.key: merged[cell.key] for cell in cells() if cell.key in merged}
        file.truncate(0)
        file.write(json.dumps(ordered, indent=0) + "\n")
        file.flush()
        DOCUMENT.write_text(render(ordered))


def main(arguments: Iterable[str] | None = None) -> None:
    """Try the cells that were asked for."""
    parser = argparse.ArgumentParser(description="Make docs/compatibility.md.")
    parser.add_argument("--target", choices=[column.title for column in COLUMNS])
    parser.add_argument("--family", choices=[model.name for model in ZOO])
    parser.add_argument("--scheme", choices=SCHEME_NAMES)
    parser.add_argument("--missing", action="store_true", help="only cells that nobody has tried")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    end = time.monotonic() + chosen.seconds
    for cell in cells():
        if time.monotonic() > end:
            break
        wanted = (chosen.target, chosen.family, chosen.scheme)
        named = (cell.column.title, cell.model.name, cell.scheme)
        skipped = any(w not in (None, n) for w, n in zip(wanted, named, strict=True))
        if skipped or (chosen.missing and cell.key in read()):
            continue
        result = attempt(cell)
        print(cell.key, _text(result), flush=True)
        write({cell.key: result})


if __name__ == "__main__":
    main()
