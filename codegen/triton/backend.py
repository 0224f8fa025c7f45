"""The triton target: kernels compiled ahead of time for each GPU that was asked for.

A level is a compute capability (`sm90`), or PTX of the oldest one (`ptx80`), which drivers compile
for GPUs that aren't built yet. All levels share weights, launches and the memory plan; they differ
in tiles, and so in kernels and grids. No GPU is needed to build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artifact.manifest import Buffer, CacheGroup, Limits, MemoryPlan
from ...artifact.targets import TritonCompileOptions, TritonProgramOptions
from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...ir.states import PAGED
from ...passes.features import Features
from ...passes.quantize import Scheme, find_scheme
from ...weights.formats.registry import FORMATS
from ...weights.layout import Layout
from ...weights.table import WeightTable
from ..contract import Build, Request, Requirements
from .check_plan import check_plan
from .cubins import compile_all, require_triton
from .generate import Generated, generate
from .layout import TRITON_LAYOUT
from .listing import listing
from .machines import MACHINES, Machine
from .plan import MachinePlan, plan_for
from .precision import CACHES, SCHEMES
from .tile_options import (
    NO_TILES,
    TileOptions,
    measure_tiles,
    require_gpu,
    settled_options,
    tile_options,
)

EXECUTOR_PACKAGES = {"cuda-bindings": ">=13.0"}
PTX_SM = 80
"""PTX for SM90 and later uses what later GPUs don't have; that for SM80 runs on all of them."""
FEATURES = Features((PAGED,), gated_panels=True)
"""Kernels of ours, whose inputs stay as they are: codes of weights meet 16-bit activations."""


@dataclass(frozen=True)
class CompiledTriton:
    """The launches of a step, and for each level the plan that its machine runs. `has_tiles`: the
    user has a table of tiles."""

    generated: Generated
    plans: Mapping[str, MachinePlan] = field(repr=False)
    has_tiles: bool = False

    @property
    def limits(self) -> Limits:
        return self.generated.program.limits

    @property
    def cache_groups(self) -> list[CacheGroup]:
        return self.generated.program.groups

    @property
    def state(self) -> None:
        """All of it grows with tokens: there are no kernels for any other."""
        return None

    @property
    def vocab_size(self) -> int:
        return self.generated.program.graph.vocab_size

    @property
    def memory_plan(self) -> MemoryPlan:
        """The arena, which is the same on every machine."""
        plan = self.generated.memory
        buffers = [
            Buffer(name=name, offset=p.offset, nbytes=p.nbytes, first=p.first, last=p.last)
            for name, p in sorted(plan.placements.items(), key=lambda item: item[1].first)
        ]
        return MemoryPlan(arena_bytes=plan.arena_bytes, buffers=buffers)

    def options(self, level: str) -> TritonProgramOptions:
        """The launch plan, whose kernels have no place in the program before they are built."""
        return TritonProgramOptions(plan=self.plans[level].plan)

    def settle(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `contract.Settling`."""
        return settled_options(given, self.generated.program.tiles) if self.has_tiles else given

    def dumps(self) -> Mapping[str, str]:
        """What each launch runs and touches, and its bytes, per level."""
        return {f"{level}.plan.txt": listing(plan.plan) for level, plan in self.plans.items()}

    def build(self, level: str, out: Path, build: Build) -> TritonProgramOptions:
        """Compile the kernels of `level`.

        Raises:
            LlmcError: LLMC-E0706, the compiler refuses a kernel; E0703, Triton is missing.
        """
        plan = self.plans[level]
        keep = plan.plan.ptx
        cubins = compile_all(plan.specs, plan.plan.sm, build.stop, build.progress, keep_ptx=keep)
        located, entry = plan.located(cubins)
        part = out.with_suffix(".part")
        part.write_bytes(entry)
        part.replace(out)
        return TritonProgramOptions(plan=located)


@dataclass(frozen=True, slots=True)
class Level:
    """A machine to build for; `ptx`: as text that newer machines take, too."""

    machine: Machine
    ptx: bool = False

    @property
    def name(self) -> str:
        return f"{'ptx' if self.ptx else 'sm'}{self.machine.sm}"


@dataclass(frozen=True)
class ConfiguredTriton:
    """NVIDIA GPUs from compute capability 8.0 on."""

    scheme: Scheme
    built: tuple[Level, ...]
    batch_invariant: bool
    tiles: TileOptions = NO_TILES
    name: str = "triton"
    layout: Layout = TRITON_LAYOUT
    weights_entry: str = "weights/triton.safetensors"
    suffix: str = ".cubins"
    tools: tuple[str, ...] = ("triton",)
    features: Features = FEATURES

    @property
    def levels(self) -> tuple[str, ...]:
        """By name. PTX comes last: where kernels of a GPU's own are there, they run."""
        return tuple(level.name for level in self.built)

    def require_tools(self) -> None:
        """Building needs Triton; measuring needs a GPU."""
        require_triton()
        if self.tiles.file is not None:
            self._measured_sm()

    def _measured_sm(self) -> int:
        """That of the GPU which is here."""
        return require_gpu(level.machine.sm for level in self.built if not level.ptx)

    def requirements(self, level: str) -> Requirements:
        """CUDA's packages; the kernels themselves don't care what the host is."""
        return Requirements("any", "any", packages=EXECUTOR_PACKAGES)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> CompiledTriton:
        """Launches, memory plan and the kernels of every level.

        Raises:
            LlmcError: LLMC-E0401 an op that can't be done; LLMC-E0103 a wrong plan; where tiles are
                measured, E0514 and E0722.
        """
        assert weights is not None
        generated = generate(
            graph, limits, weights, self.scheme, batch_invariant=self.batch_invariant,
            tiles=self.tiles.rows,
        )  # fmt: skip
        if self.tiles.file is not None:
            sm = self._measured_sm()
            measure_tiles(generated.program, generated.memory, sm, self.tiles)
        plans = {}
        for level in self.built:
            machine = level.machine
            plan = plan_for(generated.program, generated.memory, machine, ptx=level.ptx)
            blocks = [group.bytes_per_block for group in generated.program.groups]
            check_plan(plan.plan, generated.memory.arena_bytes, weights.nbytes, blocks)
            plans[level.name] = plan
        return CompiledTriton(generated, plans, self.tiles.given)


class TritonBackend:
    """Levels are compute capabilities: `90`, `sm90` or `9.0`; and `ptx`."""

    def configure(self, request: Request) -> ConfiguredTriton:
        """Errors: as `Backend.configure` has them."""
        options = request.options
        assert isinstance(options, TritonCompileOptions)
        scheme = find_scheme(
            request.scheme, request.kv_cache, target="triton", schemes=SCHEMES, caches=CACHES
        )
        if request.as_stored:
            scheme = scheme.as_stored(tuple(FORMATS))
        if not request.levels:
            known = ", ".join(map(str, MACHINES))
            raise LlmcError(
                "LLMC-E0202", "target triton needs to know the GPUs", f"name them: --sm {known}"
            )
        levels = dict.fromkeys(_level(word) for word in request.levels)
        built = sorted(levels, key=lambda level: level.ptx)
        tiles = tile_options(options)
        return ConfiguredTriton(scheme, tuple(built), not options.batch_variant, tiles)


def _level(word: str) -> Level:
    """The level of `sm90`, `90` or `9.0`, or of `ptx` (whose name in manifests is `ptx80`)."""
    if word.lower() in ("ptx", f"ptx{PTX_SM}"):
        return Level(MACHINES[PTX_SM], ptx=True)
    number = word.lower().removeprefix("sm").replace("_", "").replace(".", "")
    found = MACHINES.get(int(number)) if number.isdecimal() else None
    if found is None:
        known = ", ".join(map(str, MACHINES))
        hint = f"it builds for {known}, and ptx for newer ones"
        raise LlmcError("LLMC-E0202", f"no GPU {word!r} to build for", hint)
    return Level(found)


BACKEND = TritonBackend()
