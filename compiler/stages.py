"""The graph of a model on its way: after a phase, or text through named passes.

For who works on passes: `llmc compile --stop-after PHASE` and `llmc opt`. Nothing is built and no
weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..artifact.targets import SCHEMES
from ..base.errors import LlmcError
from ..ir.parser import parse
from ..ir.phase import Phase
from ..ir.verifier import verify
from ..passes.features import FOREIGN_RUNTIME, OWN_KERNELS, Features
from ..passes.pipeline import PIPELINE, Context, run_pipeline
from ..passes.quantize import find_scheme
from .context import context_length
from .frontend.interfaces import EAGER
from .frontend.lower import trace_model
from .frontend.names import bind
from .frontend.sources import open_source
from .frontend.trace import build_on_meta
from .targets import default_scheme, resolve_targets

FEATURES: dict[str, Features] = {"paged": OWN_KERNELS, "slots": FOREIGN_RUNTIME}
"""What `llmc opt --features` can name."""


def graph_after(
    model: str,
    phase: str,
    *,
    target: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    target_options: Mapping[str, Mapping[str, Any]],
    scheme: str | None,
    kv_cache: str | None,
    max_context: int | None,
    trust_remote_code: bool,
    lora: Sequence[str] = (),
) -> str:
    """Text of the model's graph for the first target, after the passes of `phase`.

    Raises:
        LlmcError: as a compile has them before anything is built.
    """
    resolve_targets(target, scheme or SCHEMES[0], kv_cache, levels, target_options)
    source = open_source(model, lora=lora, trust_remote_code=trust_remote_code)
    scheme = scheme or default_scheme(source)
    chosen = resolve_targets(target, scheme, kv_cache, levels, target_options)[0]
    binding = bind(build_on_meta(source.config, EAGER), source)
    context = context_length(source.config, max_context)
    traced = trace_model(source.config, context, lambda _: binding.recipes)
    graph = traced.graph()
    run_pipeline(graph, Context(chosen.scheme, chosen.features, context), Phase[phase.upper()])
    return str(graph)


def optimized(
    text: str, passes: Sequence[str] = (), *, upto: str | None = None, scheme: str = "f32",
    features: str = "paged",
) -> str:  # fmt: skip
    """Graph text after the named passes, in this order; or, without names, after all up to a phase.

    Raises:
        LlmcError: E0200, the text is no graph, or there is no such pass; E0101, a pass broke it.
    """
    try:
        graph = parse(text)
    except ValueError as error:
        raise LlmcError("LLMC-E0200", f"this is no graph: {error}") from error
    context = Context(find_scheme(scheme), FEATURES[features])
    if not passes:
        run_pipeline(graph, context, Phase[(upto or "serving").upper()])
        return str(graph)
    known = {step.name: step for step in PIPELINE}
    unknown = [name for name in passes if name not in known]
    if unknown:
        raise LlmcError(
            "LLMC-E0200", f"there is no pass {unknown[0]!r}", f"one of {', '.join(known)}"
        )
    for name in passes:
        known[name].run(graph, context)
        verify(graph, after=name)
    return str(graph)
