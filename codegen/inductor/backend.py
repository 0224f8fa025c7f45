"""The inductor target: the graph's references, compiled by torch's AOTInductor.

Whatever the interpreter can compute, this target can: it is the way out for what the others
refuse, and what they are measured against. Weights stay in the format of the scheme and are
dequantized in the program; activations are float32. Its programs run with the version of torch that
compiled them, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...artifact.manifest import CacheGroup, Limits, MemoryPlan
from ...base import machine
from ...base.errors import LlmcError
from ...ir.graph import Graph, Value
from ...ir.ops import TORCH_DTYPE, CacheWrite, Call, Op, PagedAttention
from ...ir.scalar import scalar_of
from ...ir.states import cache_groups
from ...ir.types import DType
from ...passes.features import FOREIGN_RUNTIME
from ...passes.quantize import SCHEMES, Scheme, find_scheme
from ...weights.layout import Layout
from ...weights.row_layout import RowLayout
from ...weights.table import WeightTable, WeightTensor
from ..backend import Build, Option, Requirements, known_levels
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
"""Ops of the paged form."""


@dataclass(frozen=True)
class InductorProgram:
    """A graph, where its weights lie, and what the manifest says about it."""

    graph: Graph
    limits: Limits
    weights: tuple[WeightTensor, ...]

    @property
    def cache_groups(self) -> list[CacheGroup]:
        return cache_groups(self.graph, self.limits.block_size)

    @property
    def vocab_size(self) -> int:
        vocab = self.graph.outputs[0].type.shape[-1]
        assert isinstance(vocab, int)
        return vocab

    @property
    def memory_plan(self) -> MemoryPlan:
        """torch allocates as it goes; this is what it needs at most, of what the graph shows."""
        return MemoryPlan(arena_bytes=workspace_bytes(self.graph, self.limits))

    def options(self, level: str) -> Mapping[str, Option]:
        """`sites`: the cache group of each attention site, in the order of the caches."""
        group = {s: i for i, g in enumerate(self.graph.groups) for s in g.sites}
        return {"sites": " ".join(str(group[site]) for site in sorted(group))}

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


class InductorBackend:
    """x86-64 with AVX2 or AVX-512, whatever machine compiles."""

    name = "inductor"
    features = FOREIGN_RUNTIME
    suffix = ".so"
    tools = ("torch",)

    def scheme(self, name: str, kv_cache: str | None) -> Scheme:
        """The cpu target's formats of weights, and fp16; inputs and arithmetic stay float32."""
        return find_scheme(name, kv_cache, target=self.name, schemes=_SCHEMES, caches=_CACHES)

    def layout(self, scheme: Scheme) -> Layout:
        """Rows of codes, their scales behind them."""
        return RowLayout()

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """`native` (also if nothing is said): the best that this machine runs."""
        levels = [_native() if word == "native" else word for word in words or ("native",)]
        for level in levels:
            if level not in LEVELS:
                raise LlmcError(
                    "LLMC-E0202",
                    f"target inductor has no level {level!r}",
                    hint=f"use native or one of {', '.join(LEVELS)}",
                )
        return tuple(dict.fromkeys(levels))

    def exact_levels(self, names: Sequence[str]) -> tuple[str, ...]:
        """The levels that can be asked for."""
        return known_levels(self.name, names, LEVELS)

    def require_tools(self) -> None:
        """Building needs a C++ compiler; torch is there, since it traces."""
        find_compiler()

    def requirements(self, level: str) -> Requirements:
        """The CPU features of a level, and this version of torch."""
        version = torch.__version__.split("+")[0]
        features = LEVELS[level].features
        return Requirements("linux", "x86_64", features, {"torch": f"=={version}"})

    def supports(self, op: Op) -> bool:
        """All ops of programs of slots have a reference."""
        return not isinstance(op, _NOT_OURS)

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> InductorProgram:
        """Give every constant its place among the weights.

        Raises:
            LlmcError: LLMC-E0401, an op of another form of program.
        """
        assert weights is not None
        for node in graph.nodes:
            if not self.supports(node.op):
                raise LlmcError("LLMC-E0401", f"target inductor can't do {node.op} at {node.scope}")
        constants = [value for value in graph.constants() if scalar_of(value) is None]
        return InductorProgram(graph, limits, tuple(_placed(v, weights) for v in constants))


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
