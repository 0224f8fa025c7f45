"""The inductor target: the graph's references, compiled by torch's AOTInductor.

Whatever the interpreter can compute, this target can: it is the way out for what the others
refuse, and what they are measured against. Weights stay in the format of the scheme and are
dequantized in the program; activations are float32. Its programs run with the version of torch that
compiled them, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...artifact.manifest import Limits, MemoryPlan
from ...artifact.targets import InductorProgramOptions
from ...base import machine
from ...base.errors import LlmcError
from ...ir.graph import Graph, Value
from ...ir.ops import TORCH_DTYPE, CacheWrite, Call, PagedAttention
from ...ir.scalar import scalar_of
from ...ir.types import DType
from ...passes.features import FOREIGN_RUNTIME, Features
from ...passes.quantize import SCHEMES, Scheme, find_scheme
from ...weights.row_layout import RowLayout
from ...weights.table import WeightTable, WeightTensor
from ..contract import Build, Request, Requirements, known_levels
from ..slot_program import SlotProgram
from .build import build_library, find_compiler
from .constants import parts_of
from .levels import LEVELS
from .memory import workspace_bytes
from .worker import Job

_SCHEMES = {
    name: replace(scheme, cache=DType.BF16 if scheme.cache == DType.I8 else scheme.cache)
    for name, scheme in SCHEMES.items()
} | {"fp16": Scheme("fp16", DType.F16, DType.F16, DType.F16)}
_CACHES = {"f32": DType.F32, "bf16": DType.BF16, "fp16": DType.F16}
_NOT_OURS = (Call, CacheWrite, PagedAttention)
"""Ops for kernels of ours."""


@dataclass(frozen=True)
class CompiledInductor(SlotProgram):
    """A graph, and where its weights lie."""

    weights: tuple[WeightTensor, ...]

    @property
    def memory_plan(self) -> MemoryPlan:
        """torch allocates as it goes; this is what it needs at most, of what the graph shows."""
        return MemoryPlan(arena_bytes=workspace_bytes(self.graph, self.limits))

    def options(self, level: str) -> InductorProgramOptions:
        """The cache group of each attention site."""
        group = {s: i for i, g in enumerate(self.graph.groups) for s in g.sites}
        return InductorProgramOptions(sites=[group[site] for site in sorted(group)])

    def dumps(self) -> Mapping[str, str]:
        """The graph that the worker gets; Inductor's own code has its own switches."""
        return {"graph.txt": str(self.graph)}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Compile the library of `level`.

        Raises:
            LlmcError: LLMC-E0703 no compiler, LLMC-E0706 it or Inductor refused.
        """
        build_library(self.job(level), out, build.stop)

    def job(self, level: str) -> Job:
        """What the compile of a level needs to know."""
        constants = [
            [(part.offset, part.dtype.value, part.shape) for part in parts_of(tensor)]
            for tensor in self.weights
        ]
        return Job(str(self.graph), constants, self.limits, level)


@dataclass(frozen=True)
class ConfiguredInductor:
    """x86-64 with AVX2 or AVX-512, whatever machine compiles."""

    scheme: Scheme
    levels: tuple[str, ...]
    name: str = "inductor"
    layout: RowLayout = RowLayout()  # noqa: RUF009 (frozen)
    suffix: str = ".so"
    tools: tuple[str, ...] = ("torch",)
    features: Features = FOREIGN_RUNTIME

    @property
    def weights_entry(self) -> str:
        """Shared by all targets with this layout."""
        return f"weights/{self.layout.name}.safetensors"

    def require_tools(self) -> None:
        """Building needs a C++ compiler; torch is there, since it traces."""
        find_compiler()

    def requirements(self, level: str) -> Requirements:
        """The CPU features of a level, and this version of torch."""
        version = torch.__version__.split("+")[0]
        features = LEVELS[level].features
        return Requirements("linux", "x86_64", features, {"torch": f"=={version}"})

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CompiledInductor:
        """Give every constant its place among the weights.

        Raises:
            LlmcError: LLMC-E0401, an op that isn't for runtimes of slots.
        """
        assert weights is not None
        for node in graph.nodes:
            if isinstance(node.op, _NOT_OURS):
                raise LlmcError("LLMC-E0401", f"target inductor can't do {node.op} at {node.scope}")
        constants = [value for value in graph.constants() if scalar_of(value) is None]
        return CompiledInductor(graph, limits, tuple(_placed(v, weights) for v in constants))


class InductorBackend:
    """The cpu target's formats of weights, and fp16; inputs and arithmetic stay float32."""

    def configure(self, request: Request) -> ConfiguredInductor:
        """`native` (also if nothing is said): the best level that this machine runs."""
        scheme = find_scheme(
            request.scheme, request.kv_cache, target="inductor", schemes=_SCHEMES, caches=_CACHES
        )
        if request.as_stored:
            scheme = scheme.as_stored()
        words = request.levels if request.exact else request.levels or ("native",)
        if not request.exact:
            words = tuple(_native() if word == "native" else word for word in words)
        return ConfiguredInductor(scheme, known_levels("inductor", words, LEVELS))


BACKEND = InductorBackend()


def _placed(value: Value, weights: WeightTable) -> WeightTensor:
    if value.type.dtype in TORCH_DTYPE:
        return weights.plain(value)
    return weights.packed(value)


def _native() -> str:
    """The best level that this machine runs. LLMC-E0416 if there is none."""
    here = set(machine.native_features())
    fitting = [level.name for level in LEVELS.values() if level.features <= here]
    if machine.machine() != "x86_64" or not fitting:
        raise LlmcError("LLMC-E0416", "target inductor needs an x86-64 processor with AVX2")
    return fitting[-1]
