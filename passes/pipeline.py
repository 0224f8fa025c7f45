"""The order of passes, and the manager that runs, checks, times and dumps them.

In: a traced graph and the options that passes need. Out: the same graph, lowered to SERVING.
Memory planning is the backend's last step, since it needs the target's limits.

Some passes suit some backends only: what is for our own kernels, such as panels, fused quantization
and rolled layers, foreign runtimes could not use. Which run follows from the backend's `Features`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..base.debug import dump, dump_folder
from ..ir.graph import Graph
from ..ir.phase import Phase
from ..ir.verifier import verify
from .canonicalize import canonicalize
from .drop_batch import drop_batch
from .features import Features
from .fold_constants import fold_constants
from .fuse_epilogues import fuse_epilogues
from .fuse_gated import fuse_gated
from .fuse_norm_quantize import fuse_norm_quantize
from .fuse_residual_norm import fuse_residual_norm
from .lower_state import lower_state
from .merge_projections import merge_projections
from .order_columns import order_columns
from .order_rows import order_rows
from .order_tables import order_tables
from .prove_packing import prove_packing
from .quantize import Scheme, quantize
from .raise_activation import raise_activation
from .raise_attention import raise_attention
from .raise_bias import raise_bias
from .raise_key_index import raise_key_index
from .raise_latent import raise_latent
from .raise_norm import raise_norm
from .raise_recurrence import raise_recurrence
from .raise_rotary import raise_partial_rotary, raise_rotary
from .roll_layers import roll_layers
from .select_logits import select_logits
from .share_heads import share_heads
from .sink_permutes import sink_permutes
from .sink_reshapes import sink_reshapes
from .split_states import split_states
from .spread_tokens import spread_tokens


@dataclass(frozen=True)
class Context:
    """What passes may know besides the graph: formats, what the backend wants, and how many tokens
    a sequence may have, for which masks are looked at."""

    scheme: Scheme
    features: Features
    max_context: int = 4096


@dataclass(frozen=True)
class Step:
    """One pass: it requires the phase it stands in and ensures `ensures`.

    `wanted`: whether it runs at all for a backend with these features.
    """

    name: str
    run: Callable[[Graph, Context], bool]
    ensures: Phase
    wanted: Callable[[Features], bool] = lambda _: True


def _plain(
    pass_: Callable[[Graph], bool],
    ensures: Phase,
    name: str = "",
    wanted: Callable[[Features], bool] = lambda _: True,
) -> Step:
    return Step(name or pass_.__name__, lambda graph, _: pass_(graph), ensures, wanted)


PIPELINE: tuple[Step, ...] = (
    # A graph of one token becomes one of tokens; of any other, this and what follows is nothing.
    _plain(spread_tokens, Phase.TRACED),
    # Everything after this works on [T, …]; shapes without the unit are what patterns expect.
    _plain(drop_batch, Phase.TRACED),
    # Before anything depends on the order of nodes.
    _plain(order_tables, Phase.TRACED),
    _plain(canonicalize, Phase.TRACED),
    # `1 + w` must be one constant before norms are raised.
    _plain(fold_constants, Phase.TRACED),
    # Needs reshapes merged: what a layer reads of a state is a slice then.
    _plain(split_states, Phase.TRACED),
    _plain(raise_recurrence, Phase.TRACED),
    # Attention that a model spells out relates tokens with tokens, and only attention may.
    Step("raise_attention", lambda g, c: raise_attention(g, c.max_context), Phase.TRACED),
    _plain(raise_key_index, Phase.TRACED),
    Step("prove_packing", lambda g, c: prove_packing(g, c.max_context), Phase.TRACED),
    _plain(raise_bias, Phase.TRACED),
    _plain(raise_norm, Phase.TRACED),
    _plain(raise_activation, Phase.TRACED),
    _plain(raise_rotary, Phase.TRACED),
    # Merges the tables that each rotation rebuilt, and cancels permutes.
    _plain(canonicalize, Phase.TRACED, "merge_tables"),
    _plain(sink_permutes, Phase.TRACED),
    # Needs the parts of a head side by side, which sinking gives.
    _plain(raise_partial_rotary, Phase.TRACED),
    _plain(canonicalize, Phase.TRACED, "cancel_permutes"),
    # Per-head norms that stood behind a permute are [T, H, D] only now.
    _plain(raise_norm, Phase.MODEL, "raise_head_norms"),
    # Before merging: it reads the projections of keys and values by themselves.
    _plain(raise_latent, Phase.MODEL, wanted=lambda f: f.latents),
    # Rotations and norms of repeated heads are single nodes only now.
    _plain(share_heads, Phase.MODEL),
    _plain(order_rows, Phase.MODEL),
    # Before merging: weights are merged where their inputs are one value.
    Step("order_columns", lambda g, c: order_columns(g, c.scheme), Phase.MODEL),
    # Gate and up first: what is left for merging are q, k and v.
    _plain(fuse_gated, Phase.MODEL, wanted=lambda f: f.gated_panels),
    _plain(merge_projections, Phase.MODEL),
    _plain(fuse_residual_norm, Phase.MODEL),
    _plain(fuse_epilogues, Phase.MODEL),
    _plain(sink_reshapes, Phase.MODEL),
    _plain(canonicalize, Phase.FUSED, "clean_fused"),
    # Before quantization, which puts three operands where the head had one; and before
    # lowering: rows are selected on values, not on pools.
    _plain(select_logits, Phase.FUSED),
    Step("quantize", lambda g, c: quantize(g, c.scheme, c.features.quantized_inputs), Phase.FUSED),
    _plain(fuse_norm_quantize, Phase.QUANTIZED, wanted=lambda f: f.quantized_inputs),
    Step(
        "lower_state",
        lambda g, c: lower_state(g, c.features.state, c.scheme.cache),
        Phase.SERVING,
    ),
    # Last: layers are equal only once all of them are lowered. (Rolled ones lose their names.)
    _plain(roll_layers, Phase.SERVING, wanted=lambda f: f.rolled_layers),
)


@dataclass(frozen=True)
class PassTime:
    """What the manager saw of one pass."""

    name: str
    changed: bool
    seconds: float
    nodes: int


def run_pipeline(graph: Graph, context: Context, upto: Phase = Phase.SERVING) -> list[PassTime]:
    """Run all passes whose phase is at most `upto`, verifying the graph after each.

    Those of phases that the graph has behind it are left out.

    Raises:
        LlmcError: LLMC-E0412, tokens are mixed outside attention; LLMC-E0101, a pass broke
            the graph.
    """
    _dump(0, "traced", graph, 0.0)
    times, began = [], graph.phase
    for step in PIPELINE:
        if step.ensures > upto:
            break
        if step.ensures < began or not step.wanted(context.features):
            continue
        start = time.perf_counter()
        changed = step.run(graph, context)
        for part in (graph, *graph.bodies.values()):
            part.phase = max(part.phase, step.ensures)
        seconds = time.perf_counter() - start
        verify(graph, after=step.name)
        times.append(PassTime(step.name, changed, seconds, len(graph.nodes)))
        _dump(len(times), step.name, graph, seconds)
    return times


def _dump(number: int, name: str, graph: Graph, seconds: float) -> None:
    if dump_folder() is None:
        return
    head = f"# {name}: {len(graph.nodes)} nodes, {seconds * 1e3:.1f} ms\n"
    dump(f"{number:02}-{name}.txt", head + str(graph))
