"""The contract of a backend, and the registry of targets.

A backend takes a graph in phase SERVING and says, before any compiler runs and any
weight is read, what it will make: the weight tensors and where they lie, the memory plan,
the cache groups. Then `build` makes the program of one level, while the weights are
written beside it. Backends don't inherit from one another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from ..artifact.manifest import CacheGroup, Limits, MemoryPlan
from ..base.errors import LlmcError
from ..base.progress import Progress, silent
from ..ir.graph import Graph
from ..ir.ops import Op
from ..passes.features import Features
from ..passes.quantize import Scheme
from ..weights.layout import Layout
from ..weights.table import WeightTable
from ..weights.values import RecipeValues

Option = str | int | float | bool
"""What the manifest may hold of a program's options."""


@dataclass(frozen=True)
class Build:
    """What a build may use and must obey.

    Another thread sets `stop` to end it soon, with an error. `values`: the weights, for programs
    that hold them themselves. `sample` gives tokens of a text, for targets that measure
    activations. `progress`: for builds that take long.
    """

    values: RecipeValues
    sample: Callable[[], Sequence[int]] = tuple
    stop: Event = field(default_factory=Event)
    progress: Progress = silent


class Lowered(Protocol):
    """What a backend made of a graph: all that the manifest says about a program."""

    @property
    def limits(self) -> Limits: ...
    @property
    def cache_groups(self) -> list[CacheGroup]: ...
    @property
    def memory_plan(self) -> MemoryPlan: ...
    @property
    def vocab_size(self) -> int: ...

    def options(self, level: str) -> Mapping[str, Option]:
        """What the executor of a level must know beside all that."""
        ...

    def build(self, level: str, out: Path, build: Build) -> None:
        """Make the program of one level at `out` (complete or not at all). May run in a thread."""
        ...


@dataclass(frozen=True)
class Requirements:
    """What a machine needs to run a level: names as `base/machine.py` gives them.

    `packages`: Python packages that the executor imports, each with the versions that will do:
    `>=1.24` or `==2.13.0`.
    """

    system: str
    machine: str
    features: frozenset[str] = frozenset()
    packages: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One target. `levels` are the machines that it can build for, by name.

    `suffix` is that of its program files; `tools` are the packages whose versions decide what they
    contain.
    """

    @property
    def name(self) -> str: ...
    @property
    def features(self) -> Features: ...
    @property
    def suffix(self) -> str: ...
    @property
    def tools(self) -> tuple[str, ...]: ...

    def scheme(self, name: str, kv_cache: str | None) -> Scheme:
        """What the target makes of a scheme that the user names.

        Raises:
            LlmcError: LLMC-E0201, there is no such scheme; LLMC-E0231, this target has no way to
                compute it.
        """
        ...

    def layout(self, scheme: Scheme) -> Layout | None:
        """How the weights are stored; None if the programs hold them themselves."""
        ...

    def resolve_levels(self, words: Sequence[str]) -> tuple[str, ...]:
        """The levels that what the user asked for stands for, each once, in order.

        Raises:
            LlmcError: LLMC-E0202, an unknown word.
        """
        ...

    def exact_levels(self, names: Sequence[str]) -> tuple[str, ...]:
        """The levels with these own names, as manifests hold them: what `resolve_levels` gave.

        A name may be a word, too, that stands for more than the level (`x86-64-v3` of cpu).

        Raises:
            LlmcError: LLMC-E0202, no level has that name.
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

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> Lowered:
        """Decide everything about the program of `graph` (phase SERVING, in the target's form).

        Tensors that it reads are added to `weights`, which other targets may have begun; None
        where the target has no `layout`.

        Raises:
            LlmcError: LLMC-E0401 naming the op that can't be done and where it is from.
        """
        ...


def known_levels(target: str, names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The names, each once, in order, if all of them are among the levels `known` of a target.

    Raises:
        LlmcError: LLMC-E0202, one is not.
    """
    for name in names:
        if name not in known:
            hint = f"its levels are {', '.join(known)}"
            raise LlmcError("LLMC-E0202", f"target {target} has no level {name!r}", hint)
    return tuple(dict.fromkeys(names))


TARGETS = ("cpu", "onnx", "trt", "inductor")
"""Every target that can be named."""


def find_backend(target: str, options: Mapping[str, Option] | None = None) -> Backend:
    """The backend of a target, with options that are its own.

    Raises:
        LlmcError: LLMC-E0203, no such target.
    """
    if target == "cpu":
        from .cpu.backend import CpuBackend

        return CpuBackend(**(options or {}))
    if target == "onnx":
        from .onnx.backend import OnnxBackend

        return OnnxBackend(**(options or {}))  # type: ignore[arg-type]
    if target == "inductor":
        from .inductor.backend import InductorBackend

        return InductorBackend(**(options or {}))
    if target == "trt":
        from .tensorrt.backend import TrtBackend

        return TrtBackend(**(options or {}))  # type: ignore[arg-type]
    raise LlmcError("LLMC-E0203", f"unknown target {target!r}", f"use one of {', '.join(TARGETS)}")
