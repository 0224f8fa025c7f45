"""Model config and recipes → graph in phase SERVING: trace, import, passes.

The one path that the compile, its probe and its quality check share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.graph import Graph
from ...ir.recipes import CheckpointTensor, Recipe
from ...passes.pipeline import Context, PassTime, run_pipeline
from ...passes.quantize import Scheme
from ...runtime.errors import LlmcError
from . import interfaces
from .importer import import_graph
from .trace import Traced, trace

Recipes = Callable[[Any], Mapping[str, Recipe]]
"""Model on the meta device → recipe of each of its parameters and persistent buffers."""


@dataclass
class LoweredModel:
    """The serving graph, and what tracing and passes had to say."""

    graph: Graph
    traced: Traced
    passes: list[PassTime]


def lower_model(config: Any, max_context: int, recipes: Recipes, scheme: Scheme) -> LoweredModel:
    """Trace the model of `config` and lower it with `scheme`.

    Raises:
        LlmcError: LLMC-E04xx, what the model does that can't be compiled.
    """
    try:
        traced, graph = _import(config, max_context, recipes, interfaces.NAME)
    except LlmcError as error:
        if error.id not in _OWN_ATTENTION:
            raise
        try:
            traced, graph = _import(config, max_context, recipes, interfaces.EAGER)
        except LlmcError:
            raise error from None
    passes = run_pipeline(graph, Context(scheme))
    if not graph.cache_groups:
        raise LlmcError(
            "LLMC-E0402",
            f"{type(traced.model).__name__} has no attention that llmc sees",
            hint="it may keep recurrent state or compute attention by itself; neither is supported",
        )
    return LoweredModel(graph, traced, passes)


_OWN_ATTENTION = ("LLMC-E0402", "LLMC-E0414", "LLMC-E0418", "LLMC-E0430")
"""What goes wrong with a model that ignores the attention interface and computes by itself."""


def _import(
    config: Any, max_context: int, recipes: Recipes, attention: str
) -> tuple[Traced, Graph]:
    traced = trace(config, max_context, attention)
    return traced, import_graph(traced, recipes(traced.model))


def own_tensors(model: Any) -> dict[str, Recipe]:
    """Recipes of a model whose checkpoint is its own state dict (probes and tests)."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: CheckpointTensor(name, "f32", tuple(t.shape)) for name, t in named}
