"""What is compiled for: the targets that the user named, each with levels and scheme.

In: names and options as the user gave them. Out: `Target`s, of which everything is known to be
possible that can be known before the model is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..artifact.manifest import Limits
from ..base.errors import LlmcError
from ..codegen.backend import Backend, Lowered, Option, find_backend
from ..ir.graph import Graph
from ..ir.ops import CACHE_BLOCK
from ..passes.features import Features
from ..passes.quantize import Scheme
from ..weights.table import WeightTable
from .frontend.lower import LoweredModel, TracedModel

MAX_TOKENS, MAX_SEQUENCES = 512, 64
"""Query tokens and sequences of one step."""


class ExactLevels(tuple[str, ...]):
    """Levels by their own names, as a manifest records them; plain words may stand for several."""


@dataclass(frozen=True)
class Target:
    """One target of a compile."""

    backend: Backend
    levels: tuple[str, ...]
    scheme: Scheme

    @property
    def name(self) -> str:
        return self.backend.name

    def weights_entry(self) -> str | None:
        """The entry of its weights. Targets with the same layout share it."""
        layout = self.backend.layout(self.scheme)
        if layout is None:
            return None
        own = self.backend.features.gated_panels
        return f"weights/{self.name if own else layout.name}.safetensors"

    def program_entry(self, level: str) -> str:
        return f"programs/{self.name}/{level}{self.backend.suffix}"


@dataclass(frozen=True)
class Program:
    """A model lowered for a target: everything is decided, nothing is built."""

    target: Target
    graph: Graph
    lowered: Lowered
    table: WeightTable | None


def resolve_targets(
    names: Sequence[str],
    scheme: str,
    kv_cache: str | None,
    levels: Mapping[str, Sequence[str]],
    options: Mapping[str, Mapping[str, Option]],
) -> tuple[Target, ...]:
    """The targets, in the order in which they were named.

    `levels`, by target: words of the user's, none of which means this machine, or `ExactLevels`.

    Raises:
        LlmcError: E0200 a target named twice or none, E0201 to E0203 an unknown name, E0231 a
            scheme that a target can't compute in, E0703 a tool is missing.
    """
    if not names or len(set(names)) < len(names):
        raise LlmcError("LLMC-E0200", f"targets must be named once each, not {','.join(names)!r}")
    targets = []
    for name in names:
        backend = find_backend(name, options.get(name, {}))
        chosen = backend.scheme(scheme, kv_cache)
        asked = levels.get(name, ())
        exact = isinstance(asked, ExactLevels)
        found = (backend.exact_levels if exact else backend.resolve_levels)(asked)
        targets.append(Target(backend, found, chosen))
    for target in targets:
        target.backend.require_tools()
    return tuple(targets)


def lower_for(
    targets: Sequence[Target], traced: TracedModel, context: int
) -> tuple[list[Program], list[LoweredModel]]:
    """Lower a traced model for every target, and what the passes said about each.

    Raises:
        LlmcError: LLMC-E04xx, what the model does that can't be compiled.
    """
    tables: dict[str, WeightTable] = {}
    programs, models = [], []
    for target in targets:
        backend, layout = target.backend, target.backend.layout(target.scheme)
        model = traced.lower(target.scheme, backend.features)
        entry = target.weights_entry()
        table = WeightTable(layout) if layout and entry else None
        if table is not None and entry is not None:
            table = tables.setdefault(entry, table)
        lowered = backend.lower(model.graph, limits_of(backend.features, context), table)
        programs.append(Program(target, model.graph, lowered, table))
        models.append(model)
    return programs, models


def limits_of(features: Features, context: int) -> Limits:
    """The limits of a step; a slot has room for the padding behind the longest sequence."""
    slots = features.uniform_query
    return Limits(
        max_tokens=MAX_TOKENS,
        max_sequences=MAX_SEQUENCES,
        max_context=context,
        max_logits_rows=MAX_SEQUENCES,
        block_size=context + MAX_TOKENS - 1 if slots else CACHE_BLOCK,
        uniform_query=slots,
    )
