"""What is compiled for: the targets that the user named, each with levels and scheme.

In: names and options as the user gave them. Out: configured targets, of which everything is known
to be possible that can be known before the model is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifact.manifest import Limits
from ..artifact.targets import AS_STORED, SCHEMES
from ..base.debug import dump, dump_folder, dumps_under
from ..base.errors import LlmcError
from ..codegen.contract import Compiled, Configured, Request, Settling
from ..codegen.registry import compile_options, find_backend
from ..ir.graph import Graph
from ..ir.ops import CACHE_BLOCK
from ..passes.features import Features
from ..weights.table import WeightTable
from .frontend.lower import LoweredModel, TracedModel
from .frontend.model_source import ModelSource

MAX_TOKENS, MAX_SEQUENCES = 512, 64
"""Query tokens and sequences of one step."""


class ExactLevels(tuple[str, ...]):
    """Levels by their own names, as a manifest records them; plain words may stand for several."""


@dataclass(frozen=True)
class Program:
    """A model lowered for a target: everything is decided, nothing is built."""

    target: Configured
    graph: Graph
    compiled: Compiled
    table: WeightTable | None

    def entry(self, level: str) -> str:
        """The artifact's entry of the program of a level."""
        return f"programs/{self.target.name}/{level}{self.target.suffix}"


def resolve_targets(
    names: Sequence[str],
    scheme: str,
    kv_cache: str | None,
    levels: Mapping[str, Sequence[str]],
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Configured, ...]:
    """The targets, configured, in the order in which they were named.

    `levels`, by target: words of the user's, none of which means this machine, or `ExactLevels`.

    Raises:
        LlmcError: E0200 a target named twice or none, or levels or options of one that isn't named;
            E0201 to E0203 an unknown name, E0205 an unknown option, E0231 a scheme that a target
            can't compute in, E0703 a tool is missing.
    """
    if not names or len(set(names)) < len(names):
        raise LlmcError("LLMC-E0200", f"targets must be named once each, not {','.join(names)!r}")
    backends = [find_backend(name) for name in names]
    for name in (*levels, *options):
        if name not in names:
            raise LlmcError(
                "LLMC-E0200", f"{name!r} has levels or options, but isn't among the targets"
            )
    targets = []
    for name, backend in zip(names, backends, strict=True):
        asked = levels.get(name, ())
        request = Request(
            SCHEMES[0] if scheme == AS_STORED else scheme,
            kv_cache,
            compile_options(name, options.get(name, {})),
            tuple(asked),
            isinstance(asked, ExactLevels),
            as_stored=scheme == AS_STORED,
        )
        targets.append(backend.configure(request))
    for target in targets:
        target.require_tools()
    return tuple(targets)


def default_scheme(source: ModelSource) -> str:
    """The scheme for a model with which none was asked for."""
    return SCHEMES[0] if source.quantization is None else AS_STORED


def lower_for(
    targets: Sequence[Configured], traced: TracedModel, context: int
) -> tuple[list[Program], list[LoweredModel]]:
    """Lower a traced model for every target, and what the passes said about each.

    Raises:
        LlmcError: LLMC-E04xx, what the model does that can't be compiled.
    """
    tables: dict[str, WeightTable] = {}
    programs, models = [], []
    for target in targets:
        with dumps_under(target.name):
            model = traced.lower(target.scheme, target.features)
            table = None
            if target.layout is not None and target.weights_entry is not None:
                table = tables.setdefault(target.weights_entry, WeightTable(target.layout))
            compiled = target.lower(model.graph, limits_of(target.features, context), table)
            if dump_folder() is not None:
                for name, text in compiled.dumps().items():
                    dump(name, text)
        programs.append(Program(target, model.graph, compiled, table))
        models.append(model)
    return programs, models


def settled_options(
    given: Mapping[str, Mapping[str, Any]], programs: Sequence[Program]
) -> dict[str, Mapping[str, Any]]:
    """Options by target as a manifest has them: a compile with these gives the same programs."""
    settled = dict(given)
    for program in programs:
        name, compiled = program.target.name, program.compiled
        if name in given and isinstance(compiled, Settling):
            settled[name] = compiled.settle(given[name])
    return settled


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
