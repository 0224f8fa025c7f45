"""What the manifest says of a program of slots, whichever foreign runtime it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..artifact.manifest import CacheGroup, Limits, MemoryPlan
from ..artifact.targets import CacheInput
from ..ir.graph import Graph
from ..ir.states import cache_groups
from ..ir.types import DType

CacheType = Literal["f32", "bf16", "f16"]
CACHE_TYPES: dict[DType, CacheType] = {DType.F32: "f32", DType.BF16: "bf16", DType.F16: "f16"}


@dataclass(frozen=True)
class SlotProgram:
    """`graph`: in phase SERVING, with slots; `limits.block_size` is the length of one."""

    graph: Graph
    limits: Limits

    @property
    def cache_groups(self) -> list[CacheGroup]:
        """A slot is a block."""
        return cache_groups(self.graph, self.limits.block_size)

    @property
    def state(self) -> None:
        """All of it grows with tokens: foreign runtimes know no other."""
        return None

    @property
    def caches(self) -> list[CacheInput]:
        """What the runtime has to be given, in the order of the graph's inputs."""
        found = []
        for value in self.graph.state_inputs:
            _, heads, _, width = value.type.shape
            assert isinstance(heads, int)
            assert isinstance(width, int)
            dtype = CACHE_TYPES[value.type.dtype]
            found.append(CacheInput(name=value.name, dtype=dtype, heads=heads, width=width))
        return found

    @property
    def vocab_size(self) -> int:
        """Logits of a row."""
        return self.graph.vocab_size

    @property
    def memory_plan(self) -> MemoryPlan:
        """None of ours: the runtime plans by itself."""
        return MemoryPlan(arena_bytes=0, buffers=[])
