"""The cpu target: a graph becomes C++, one shared library per instruction-set level.

All levels share the source, the weights and the memory plan; they differ in what the
kernel headers choose at the compiler's predefined macros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import artifact
from ...artifact.manifest import Buffer, CacheGroup, Limits, MemoryPlan, StateSlots
from ...artifact.targets import CpuProgramOptions
from ...base import machine
from ...ir.graph import Graph
from ...passes.features import OWN_KERNELS, Features
from ...passes.quantize import Scheme, find_scheme
from ...weights.layout import Layout
from ...weights.table import WeightTable
from ..contract import Build, Request, Requirements, known_levels
from .listing import listings
from .packing import PANEL16
from .program import Program, generate
from .toolchain import LEVELS, compile_library, require_compiler, resolve_levels

_INTERFACE = Path(artifact.__file__).parent  # llmc.h


@dataclass(frozen=True, slots=True)
class CompiledCpu:
    """A generated program: its C++ text (`source`), and what the manifest says about it."""

    program: Program

    @property
    def source(self) -> str:
        return self.program.source

    @property
    def limits(self) -> Limits:
        return self.program.limits

    @property
    def cache_groups(self) -> list[CacheGroup]:
        return self.program.cache_groups

    @property
    def state(self) -> StateSlots | None:
        return self.program.state

    @property
    def vocab_size(self) -> int:
        return self.program.vocab_size

    @property
    def memory_plan(self) -> MemoryPlan:
        """The main function's arena; a body's own plan lies inside its `frame` buffers."""
        plan = self.program.main.plan
        buffers = [
            Buffer(name=name, offset=p.offset, nbytes=p.nbytes, first=p.first, last=p.last)
            for name, p in sorted(plan.placements.items(), key=lambda item: item[1].first)
        ]
        return MemoryPlan(arena_bytes=plan.arena_bytes, buffers=buffers)

    def options(self, level: str) -> CpuProgramOptions:
        """None: the library knows everything."""
        return CpuProgramOptions()

    def dumps(self) -> Mapping[str, str]:
        """The C++, and what each function does to memory, step by step."""
        return {"program.cpp": self.source, **listings(self.program)}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Compile the library of `level`.

        Raises:
            LlmcError: LLMC-E0703 no compiler, LLMC-E0706 it refused, LLMC-E0202 unknown level.
        """
        source = f'#define LLMC_LEVEL "{level}"\n{self.source}'
        compile_library(source, level, out, extra_include=(_INTERFACE,), stop=build.stop)


@dataclass(frozen=True, slots=True)
class ConfiguredCpu:
    """x86-64 (AVX2, AVX-512, portable C++) and aarch64 (NEON), whatever machine compiles."""

    scheme: Scheme
    levels: tuple[str, ...]
    name: str = "cpu"
    layout: Layout = PANEL16
    weights_entry: str = "weights/cpu.safetensors"
    suffix: str = ".so"
    tools: tuple[str, ...] = ("ziglang",)
    features: Features = OWN_KERNELS

    def require_tools(self) -> None:
        """Building needs ziglang."""
        require_compiler()

    def requirements(self, level: str) -> Requirements:
        """System, processor family and CPU features of a level."""
        found = LEVELS[level]
        return Requirements("linux", found.machine, found.features)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CompiledCpu:
        """Generate source, weight offsets and memory plan of a graph in phase SERVING.

        Raises:
            LlmcError: LLMC-E0401 an op that can't be done; LLMC-E0103 a wrong memory plan.
        """
        assert weights is not None
        return CompiledCpu(generate(graph, limits, weights))


class CpuBackend:
    """The schemes that the kernels have formats for, and the toolchain's levels."""

    def configure(self, request: Request) -> ConfiguredCpu:
        """`native` is this machine's best level; `x86-64-v4` stands for three. None: native."""
        scheme = find_scheme(request.scheme, request.kv_cache)
        if request.as_stored:
            scheme = scheme.as_stored()
        if request.exact:
            return ConfiguredCpu(scheme, known_levels("cpu", request.levels, LEVELS))
        here = machine.machine(), machine.native_features()
        words = request.levels or ("native",)
        levels = [level.name for word in words for level in resolve_levels(word, *here)]
        return ConfiguredCpu(scheme, tuple(dict.fromkeys(levels)))


BACKEND = CpuBackend()
