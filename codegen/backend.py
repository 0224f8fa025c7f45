"""The contract of a backend, and the registry of targets.

A backend takes a graph in phase SERVING and says, before any compiler runs and any
weight is read, what it will make: the weight tensors and where they lie, the memory plan,
the cache groups. Then `build` makes the native code of one level, while the weights are
written beside it. Backends don't inherit from one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np

from ..ir.graph import Graph
from ..ir.ops import Op
from ..ir.quantization import WeightFormat
from ..ir.recipes import Recipe
from ..runtime.artifact import CacheGroup, Limits, MemoryPlan
from ..runtime.errors import LlmcError


class Tensor(Protocol):
    """A weight as the artifact stores it: bytes [offset, offset + nbytes) of the data section."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Lowered(Protocol):
    """What a backend made of a graph: all that the manifest says about a program."""

    @property
    def tensors(self) -> Sequence[Tensor]: ...
    @property
    def weights_bytes(self) -> int: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def cache_groups(self) -> list[CacheGroup]: ...
    @property
    def memory_plan(self) -> MemoryPlan: ...
    @property
    def vocab_size(self) -> int: ...

    def build(self, level: str, out: Path, stop: Event | None = None) -> None:
        """Make the native code of one level at `out` (complete or not at all).

        May run in a thread. Another one sets `stop` to end it soon, with an error.
        """
        ...


@dataclass(frozen=True)
class Requirements:
    """What a machine needs to run a level: names as `runtime/machine.py` gives them."""

    system: str
    machine: str
    features: frozenset[str]


class Packer(Protocol):
    """The byte layout of a backend's weights."""

    def pack(self, format: WeightFormat, rows: Any) -> np.ndarray:
        """Bytes (u8) of consecutive rows of a matrix in `format`."""
        ...


class Backend(Protocol):
    """One target. `levels` are the machines that it can build for, by name."""

    name: str

    @property
    def packer(self) -> Packer: ...

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """The levels that what the user asked for stands for, each once, in order.

        Raises:
            LlmcError: LLMC-E0202, an unknown word.
        """
        ...

    def require_tools(self) -> None:
        """Check that what `build` runs is installed, before any work is done.

        Raises:
            LlmcError: LLMC-E0703, naming what to install.
        """
        ...

    def requirements(self, level: str) -> Requirements:
        """What a machine must have to run `level`."""
        ...

    def supports(self, op: Op) -> bool:
        """Whether a graph may hold `op`."""
        ...

    def lower(self, graph: Graph, limits: Limits) -> Lowered:
        """Decide everything about the program of `graph` (phase SERVING).

        Raises:
            LlmcError: LLMC-E0401 naming the op that can't be done and where it is from.
        """
        ...


def find_backend(target: str) -> Backend:
    """The backend of a target.

    Raises:
        LlmcError: LLMC-E0203, no such target.
    """
    if target == "cpu":
        from .cpu.backend import CpuBackend

        return CpuBackend()
    raise LlmcError("LLMC-E0203", f"unknown target {target!r}")
