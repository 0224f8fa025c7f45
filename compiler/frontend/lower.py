"""Model config and recipes → graph in phase SERVING: trace, import, passes.

The one path that the compile, its probe and its quality check share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...base.errors import LlmcError
from ...ir.graph import Graph
from ...passes.features import Features
from ...passes.pipeline import Context, PassTime, run_pipeline
from ...passes.quantize import Scheme
from ...weights.recipes import CheckpointTensor, Recipe
from . import interfaces
from .importer import import_graph
from .position_tables import positions_held
from .text_part import tensor_names
from .token_step import trace_token_step
from .trace import Traced, require_all_lengths, trace

Recipes = Callable[[Any], Mapping[str, Recipe]]
"""Model on the meta device → recipe of each of its parameters and persistent buffers."""


@dataclass
class LoweredModel:
    """The serving graph, and what tracing and passes had to say."""

    graph: Graph
    traced: Traced
    passes: list[PassTime]


class TracedModel:
    """A model that was traced once, to be lowered for one target or several."""

    def __init__(self, traced: Traced, recipes: Mapping[str, Recipe]) -> None:
        self.traced = traced
        self._recipes = recipes
        self._imported: Graph | None = import_graph(traced, recipes)
        self.positions = positions_held(self._imported, traced.max_context)
        """How many positions, up to the context of the trace, the model has rows for."""
        read = tensor_names(value.recipe for value in self._imported.constants())
        self.left_out = tensor_names(recipes.values()) - read
        """Checkpoint tensors that have a place in the model but are never read by the trace."""

    def graph(self) -> Graph:
        """The imported graph, in phase TRACED, of its own for each caller."""
        graph = self._imported or import_graph(self.traced, self._recipes)
        self._imported = None  # passes change it
        return graph

    def lower(self, scheme: Scheme, features: Features) -> LoweredModel:
        """Run the passes on a graph of its own.

        Raises:
            LlmcError: LLMC-E04xx, what the model does that can't be compiled.
        """
        graph = self.graph()
        context = Context(scheme, features, self.traced.max_context)
        passes = run_pipeline(graph, context)
        if not graph.groups:
            raise LlmcError(
                "LLMC-E0402",
                f"{type(self.traced.model).__name__} keeps no state that llmc sees",
                hint="llmc compiles models that relate tokens by attention or by a recurrence",
            )
        return LoweredModel(graph, self.traced, passes)


def trace_model(config: Any, max_context: int, recipes: Recipes) -> TracedModel:
    """Trace the model of `config`: through the attention interface, or as it spells it out, or its
    step from one token to the next if whole sequences can't be traced.

    Raises:
        LlmcError: LLMC-E04xx, what the model does that can't be compiled.
    """
    try:
        return _traced_whole(config, max_context, recipes)
    except LlmcError as error:
        if error.id not in _MIXES_TOKENS:
            raise
        try:
            traced = trace_token_step(config, max_context)
            return TracedModel(traced, recipes(traced.model))
        except LlmcError:  # there is no such step: what is wrong is that with the whole
            raise error from None


def _traced_whole(config: Any, max_context: int, recipes: Recipes) -> TracedModel:
    """The trace of a sequence of any length."""
    try:
        return _traced(config, max_context, recipes, interfaces.NAME)
    except LlmcError as error:
        if error.id not in _OWN_ATTENTION:
            raise
    # What goes wrong now is what the model does; that it ignores the interface is no fault.
    return _traced(config, max_context, recipes, interfaces.EAGER)


def lower_model(
    config: Any,
    max_context: int,
    recipes: Recipes,
    scheme: Scheme,
    features: Features,
) -> LoweredModel:
    """Trace the model of `config` and lower it with `scheme` for a backend with these features.

    Raises:
        LlmcError: LLMC-E04xx, what the model does that can't be compiled.
    """
    return trace_model(config, max_context, recipes).lower(scheme, features)


_OWN_ATTENTION = ("LLMC-E0402", "LLMC-E0414", "LLMC-E0418", "LLMC-E0430")
"""What goes wrong with a model that ignores the attention interface and computes by itself."""
_MIXES_TOKENS = ("LLMC-E0401", "LLMC-E0402", "LLMC-E0412", "LLMC-E0418", "LLMC-E0430")
"""What goes wrong with a model that relates tokens with earlier ones by other means."""


def _traced(config: Any, max_context: int, recipes: Recipes, attention: str) -> TracedModel:
    traced = trace(config, max_context, attention)
    model = TracedModel(traced, recipes(traced.model))
    require_all_lengths(traced)  # after the import, which can name the line
    return model


def own_tensors(model: Any) -> dict[str, Recipe]:
    """Recipes of a model whose checkpoint is its own state dict (probes and tests)."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: CheckpointTensor(name, "f32", tuple(t.shape)) for name, t in named}
