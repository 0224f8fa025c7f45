"""The compile itself, as a process of its own: `python -m llmc.codegen.inductor.worker FOLDER`.

torch.export and Inductor patch torch while they run, and nothing can stop them from outside; the
driver traces and probes beside them. So they get a process, which can be killed.

In: `FOLDER/job.json` (a `Job`). Out: `FOLDER/program.so`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from ...artifact.manifest import Limits
from ...ir.parser import parse
from ...ir.scalar import scalar_of
from ...ir.types import DType
from .constants import Part
from .levels import LEVELS
from .module import Parts, SlotModule, export_module

JOB, PROGRAM, COMPILER = "job.json", "program.so", "c++"


class Job(Struct):
    """`graph`: text of a graph of slots; `constants`: for each of its constants that isn't a
    scalar, in the order of `Graph.constants()`, its parts as (offset, element type, shape)."""

    graph: str
    constants: list[list[tuple[int, str, tuple[int, ...]]]]
    limits: Limits
    level: str


def run(folder: Path) -> None:
    """Compile the job in `folder`."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    graph = parse(job.graph)
    named = [value for value in graph.constants() if scalar_of(value) is None]
    parts: Parts = {
        value: [Part(offset, DType(dtype), shape) for offset, dtype, shape in found]
        for value, found in zip(named, job.constants, strict=True)
    }
    options = LEVELS[job.level].prepare() | _OPTIONS | {"cpp.cxx": (None, str(folder / COMPILER))}
    _accept_float32_groups()
    program = export_module(SlotModule(graph, parts), job.limits)
    assert program.example_inputs is not None
    module = program.module(check_guards=False)
    library = torch._inductor.aot_compile(module, *program.example_inputs, options=options)
    Path(library).replace(folder / PROGRAM)  # type: ignore[arg-type]


def _accept_float32_groups() -> None:
    """torch computes grouped products in float32 on a CPU, but its shape rule takes bf16 only."""
    from torch import _meta_registrations

    def shape_of(a: torch.Tensor, b: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return a.new_empty(a.shape[0], b.shape[-1])

    _meta_registrations._meta_grouped_mm_common = shape_of


_OPTIONS = {
    # Weights come from the artifact, whatever their size.
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,
    "joint_graph_constant_folding": False,  # would look at the stand-ins' elements
    # As many threads as whoever runs the library wants.
    "cpp.dynamic_threads": True,
    # The same bytes on every build: no names of files.
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.model_name_for_generated_files": "program",
    # Headers are compiled once a process anyway.
    "aot_inductor.precompile_headers": False,
}


if __name__ == "__main__":
    run(Path(sys.argv[1]))
