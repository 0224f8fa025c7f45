"""The contract of a backend: `configure`, then `lower`, then `build`.

A backend is configured once, by what a compile asks of its target; the configuration is frozen and
nothing is remembered between calls. It takes a graph in phase SERVING and says, before any compiler
runs and any weight is read, what it will make: the weight tensors and where they lie, the memory
plan, the cache groups. Then `build` makes the program of one level, while the weights are written
beside it. Backends don't inherit from one another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Protocol, runtime_checkable

from ..artifact.manifest import CacheGroup, Limits, MemoryPlan, StateSlots
from ..artifact.targets import AnyProgramOptions, CompileOptions
from ..base.errors import LlmcError
from ..base.progress import Progress, silent
from ..ir.graph import Graph
from ..passes.features import Features
from ..passes.quantize import Scheme
from ..weights.layout import Layout
from ..weights.table import WeightTable
from ..weights.values import RecipeValues


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


class Compiled(Protocol):
    """What a backend made of a graph: all that the manifest says about a program."""

    @property
    def limits(self) -> Limits: ...
    @property
    def cache_groups(self) -> list[CacheGroup]: ...
    @property
    def state(self) -> StateSlots | None:
        """What sequences keep in slots, beside their cache blocks or without any."""
        ...

    @property
    def memory_plan(self) -> MemoryPlan: ...
    @property
    def vocab_size(self) -> int: ...

    def options(self, level: str) -> AnyProgramOptions:
        """What the executor of a level must know beside all that, as far as it is known before
        `build`."""
        ...

    def dumps(self) -> Mapping[str, str]:
        """Text of what was decided, by the names of files for `LLMC_DUMP`."""
        ...

    def build(self, level: str, out: Path, build: Build) -> AnyProgramOptions | None:
        """Make the program of one level at `out` (complete or not at all). May run in a thread.

        Gives the options again if building has completed them.
        """
        ...


@runtime_checkable
class Settling(Protocol):
    """A `Compiled` that depends on more than its options say: on files, or on what was measured."""

    def settle(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options `given` so that they say all of it: for the manifest, and a rebuild."""
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


@dataclass(frozen=True)
class Request:
    """What a compile asks of one target.

    `scheme`, `kv_cache`: names as users have them; `options`: the target's own, of its `request`
    type in `artifact/targets.py`. `levels`: words that may stand for several machines, none for
    this one; or, if `exact`, the names that a manifest records. `as_stored`: weights that the
    checkpoint has quantized stay so, where the target has formats for them.
    """

    scheme: str
    kv_cache: str | None
    options: CompileOptions
    levels: tuple[str, ...] = ()
    exact: bool = False
    as_stored: bool = False


class Configured(Protocol):
    """A target as one compile wants it. Frozen; everything that can be refused has been.

    `levels` are the machines to build for; `layout`: how weights are stored, None if programs hold
    them themselves; `weights_entry`: the entry that they go to (targets with the same layout share
    it); `suffix` is that of program files; `tools` are the packages whose versions decide what they
    contain; `features`: what the graph must be like.
    """

    @property
    def name(self) -> str: ...
    @property
    def scheme(self) -> Scheme: ...
    @property
    def levels(self) -> tuple[str, ...]: ...
    @property
    def layout(self) -> Layout | None: ...
    @property
    def weights_entry(self) -> str | None: ...
    @property
    def suffix(self) -> str: ...
    @property
    def tools(self) -> tuple[str, ...]: ...
    @property
    def features(self) -> Features: ...

    def require_tools(self) -> None:
        """Check that what `build` runs is installed, before any work is done.

        Raises:
            LlmcError: LLMC-E0703, naming what to install.
        """
        ...

    def requirements(self, level: str) -> Requirements:
        """What a machine must have to run `level`."""
        ...

    def lower(self, graph: Graph, limits: Limits, weights: WeightTable | None) -> Compiled:
        """Decide everything about the program of `graph` (phase SERVING, with these features).

        Tensors that it reads are added to `weights`, which other targets may have begun; None
        where there is no `layout`.

        Raises:
            LlmcError: LLMC-E0401 naming the op that can't be done and where it is from.
        """
        ...


class Backend(Protocol):
    """One target."""

    def configure(self, request: Request) -> Configured:
        """The target as `request` wants it.

        Raises:
            LlmcError: LLMC-E0201, there is no such scheme; E0231, this target can't compute it;
                E0202, there is no such level.
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
