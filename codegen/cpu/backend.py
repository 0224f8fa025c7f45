"""The cpu target: a graph becomes C++, one shared library per instruction-set level.

All levels share the source, the weights and the memory plan; they differ in what the
kernel headers choose at the compiler's predefined macros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import artifact
from ...artifact.manifest import Buffer, CacheGroup, Limits, MemoryPlan
from ...base import machine
from ...ir.graph import Graph
from ...ir.ops import Op
from ...passes.features import OWN_KERNELS
from ...passes.quantize import Scheme, find_scheme
from ...weights.layout import Layout
from ...weights.table import WeightTable
from ..backend import Build, Option, Requirements, known_levels
from .emitters import supports
from .packing import PANEL16
from .program import Program, generate
from .toolchain import LEVELS, compile_library, require_compiler, resolve_levels

_INTERFACE = Path(artifact.__file__).parent  # llmc.h


@dataclass(frozen=True, slots=True)
class CpuProgram:
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

    def options(self, level: str) -> Mapping[str, Option]:
        """None: the library knows everything."""
        return {}

    def build(self, level: str, out: Path, build: Build) -> None:
        """Compile the library of `level`.

        Raises:
            LlmcError: LLMC-E0703 no compiler, LLMC-E0706 it refused, LLMC-E0202 unknown level.
        """
        source = f'#define LLMC_LEVEL "{level}"\n{self.source}'
        compile_library(source, level, out, extra_include=(_INTERFACE,), stop=build.stop)


class CpuBackend:
    """x86-64 (AVX2, AVX-512, portable C++) and aarch64 (NEON), whatever machine compiles."""

    name = "cpu"
    features = OWN_KERNELS
    suffix = ".so"
    tools = ("ziglang",)

    def scheme(self, name: str, kv_cache: str | None) -> Scheme:
        """The schemes that the kernels have formats for."""
        return find_scheme(name, kv_cache)

    def layout(self, scheme: Scheme) -> Layout:
        """The kernels' panels, for every scheme."""
        return PANEL16

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """`native` is this machine's best level; `x86-64-v4` stands for three. None: native."""
        here = machine.machine(), machine.native_features()
        levels = [
            level.name for word in words or ("native",) for level in resolve_levels(word, *here)
        ]
        return tuple(dict.fromkeys(levels))

    def exact_levels(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names in the toolchain's table."""
        return known_levels(self.name, names, LEVELS)

    def require_tools(self) -> None:
        """Building needs ziglang."""
        require_compiler()

    def requirements(self, level: str) -> Requirements:
        """System, processor family and CPU features of a level."""
        found = LEVELS[level]
        return Requirements("linux", found.machine, found.features)

    def supports(self, op: Op) -> bool:
        """Whether some use of `op` can be emitted; `lower` decides about the use at hand."""
        return supports(op)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CpuProgram:
        """Generate source, weight offsets and memory plan of a graph in phase SERVING.

        Raises:
            LlmcError: LLMC-E0401 an op that can't be done; LLMC-E0103 a wrong memory plan.
        """
        assert weights is not None
        return CpuProgram(generate(graph, limits, weights))
