"""Builds the programs that a machine with a GPU will run, on one without: shapes, no weights.

In: shapes and schemes. Out: `Lowered` programs, whose kernels `compile_kernels` compiles together,
each distinct one once, and a `Suite` in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from llmc.artifact.launch_plan import LaunchPlan
from llmc.artifact.manifest import Limits, MemoryPlan, Variant
from llmc.artifact.targets import TritonProgramOptions
from llmc.base.errors import LlmcError
from llmc.codegen.contract import Request
from llmc.codegen.registry import compile_options, find_backend
from llmc.codegen.triton.backend import CompiledTriton
from llmc.codegen.triton.cubins import Cubin, compile_all
from llmc.codegen.triton.kernel_spec import KernelSpec
from llmc.codegen.triton.precision import SCHEMES as KNOWN_SCHEMES
from llmc.compiler.frontend.lower import TracedModel, own_tensors, trace_model
from llmc.ir.graph import Graph
from llmc.ir.ops import CACHE_BLOCK
from llmc.weights.table import WeightTable

from . import suite as folder_of
from .costs import step_cost
from .fillings import weight_recipe
from .shapes import CASES, LOGITS_ROWS, MAX_CONTEXT, MOST_SEQUENCES, Case, Shape
from .suite import Blobs, BuiltProgram, Expected, Suite

Say = Callable[[str], None]
SHAPE_LIMITS = Limits(
    max_tokens=MAX_CONTEXT,
    max_sequences=MOST_SEQUENCES,
    max_context=MAX_CONTEXT,
    max_logits_rows=LOGITS_ROWS,
    block_size=CACHE_BLOCK,
)


@dataclass
class Lowered:
    """A program whose kernels are still to be compiled. `graph`: what it was made of."""

    model: str
    scheme: str
    kv_cache: str
    level: str
    graph: Graph
    compiled: CompiledTriton
    table: WeightTable

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.model, self.scheme, self.kv_cache) if part)

    @property
    def specs(self) -> Sequence[KernelSpec]:
        return self.compiled.plans[self.level].specs

    def variant(self, plan: LaunchPlan) -> Variant:
        """What a manifest would say of it; buffers are for people, and left out."""
        compiled = self.compiled
        return Variant(
            target="triton",
            level=self.level,
            options=TritonProgramOptions(plan=plan),
            program="program",
            weights="weights",
            limits=compiled.limits,
            cache_groups=compiled.cache_groups,
            memory_plan=MemoryPlan(arena_bytes=compiled.memory_plan.arena_bytes),
            vocab_size=compiled.vocab_size,
        )

    def built(self, plan: LaunchPlan, entry: bytes, blobs: Blobs) -> BuiltProgram:
        """With the plan and the cubins that it launches."""
        return BuiltProgram(
            model=self.model,
            scheme=self.scheme,
            kv_cache=self.kv_cache,
            variant=self.variant(plan),
            cubins=[blobs.add(entry[k.offset : k.offset + k.nbytes]) for k in plan.kernels],
            weight_bytes=self.table.nbytes,
        )

    def timed(self, program: BuiltProgram, cases: Mapping[str, Case] = CASES) -> BuiltProgram:
        """With what to fill weights with, and what steps cost."""
        costs = {
            name: step_cost(self.compiled, self.table, self.level, case)
            for name, case in cases.items()
            if case.context <= self.compiled.limits.max_context
            and case.sequences <= self.compiled.limits.max_sequences
        }
        weights = [weight_recipe(tensor, i) for i, tensor in enumerate(self.table.tensors)]
        return msgspec.structs.replace(program, costs=costs, weights=weights)


def lower(
    traced: TracedModel,
    name: str,
    scheme: str,
    kv_cache: str = "",
    *,
    sm: int = 90,
    limits: Limits = SHAPE_LIMITS,
) -> Lowered:
    """A traced model for the triton target. Errors: LLMC-E04xx, LLMC-E02xx."""
    asked = compile_options("triton", {})
    request = Request(scheme, kv_cache or None, asked, (str(sm),), False)
    target: Any = find_backend("triton").configure(request)
    graph = traced.lower(target.scheme, target.features).graph
    table = WeightTable(target.layout)
    compiled = target.lower(graph, limits, table)
    (level,) = target.levels
    return Lowered(name, scheme, kv_cache, level, graph, compiled, table)


def traced_shape(shape: Shape, context: int = MAX_CONTEXT) -> TracedModel:
    """A shape, traced without weights."""
    from transformers import LlamaConfig

    return trace_model(LlamaConfig(**shape.configuration()), context, own_tensors)


def lower_shapes(
    shapes: Sequence[Shape], schemes: Sequence[str], sm: int, refused: dict[str, str], say: Say
) -> list[Lowered]:
    """All that can be lowered; `refused` gets the others with the reason."""
    found = []
    for shape in shapes:
        say(f"tracing {shape.name}")
        traced = traced_shape(shape)
        for scheme in schemes:
            name = f"{shape.name}-{scheme}"
            if scheme not in KNOWN_SCHEMES:
                refused[name] = f"the triton target has no scheme {scheme}"
                continue
            try:
                found.append(lower(traced, shape.name, scheme, sm=sm))
            except LlmcError as error:
                refused[name] = str(error)
    return found


def compile_kernels(
    programs: Sequence[Lowered], sm: int, ptxas: Path | None, refused: dict[str, str], say: Say
) -> dict[KernelSpec, Cubin]:
    """Kernels of all programs, each distinct one once. A program of which one can't be compiled is
    in `refused`, with the reason; the others go on. Errors: LLMC-E0202, E0703."""
    known: dict[KernelSpec, Cubin] = {}
    for program in programs:
        specs = [spec for spec in dict.fromkeys(program.specs) if spec not in known]
        try:
            cubins = compile_all(specs, sm, ptxas=ptxas) if specs else []
        except LlmcError as error:
            if error.id != "LLMC-E0706":
                raise
            refused[program.name] = str(error)
            continue
        known |= zip(specs, cubins, strict=True)
        say(f"{program.name}: {len(specs)} kernels")
    return known


def located(program: Lowered, cubins: dict[KernelSpec, Cubin]) -> tuple[LaunchPlan, bytes]:
    """The plan with its cubins."""
    return program.compiled.plans[program.level].located([cubins[s] for s in program.specs])


def write_suite(
    folder: Path,
    programs: Sequence[tuple[Lowered, Expected | None]],
    cubins: dict[KernelSpec, Cubin],
    blobs: Blobs,
    suite: Suite,
) -> None:
    """Write all that have their kernels; those with nothing to expect are to be timed."""
    built = []
    for program, expected in programs:
        if program.name in suite.refused:
            continue
        made = program.built(*located(program, cubins), blobs)
        if expected is None:
            built.append(program.timed(made))
        else:
            built.append(msgspec.structs.replace(made, expected=expected))
    folder_of.write(folder, suite, built, blobs)


def tools() -> dict[str, str]:
    """Versions of what builds."""
    return {name: version(name) for name in ("triton", "torch", "transformers")}
