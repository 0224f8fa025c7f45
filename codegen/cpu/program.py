"""A serving graph → the C++ source of a program, its weight tensors and its memory plan."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ...artifact.manifest import ABI_VERSION, CacheGroup, Limits, StateSlots
from ...ir.graph import Graph, Node
from ...ir.ops import Call
from ...ir.plan import Buffer, Schedule
from ...ir.roles import State, StepArray, Table
from ...ir.states import cache_groups, is_slot_part, state_slots
from ...weights.table import WeightTable
from .bodies import (
    Body,
    Planned,
    bind_pool,
    bind_slot_part,
    emit_body,
    emit_call,
    finish,
    plan_function,
)
from .emit_attention import SCRATCH
from .emitters import emit_node
from .function import Function, refusal
from .render import render


@dataclass(slots=True)
class Program:
    """Everything generated from one graph, before any compiler or weight is touched."""

    source: str
    weights: WeightTable
    main: Planned
    bodies: list[Body]
    limits: Limits
    cache_groups: list[CacheGroup]
    state: StateSlots | None
    vocab_size: int


@dataclass(slots=True)
class _Context:
    graph: Graph
    limits: Limits
    state: StateSlots | None
    main: Function
    bodies: dict[str, Body] = field(default_factory=dict)


def generate(graph: Graph, limits: Limits, weights: WeightTable) -> Program:
    """Generate the program of a graph in phase SERVING; its tensors go to `weights`.

    Raises:
        LlmcError: LLMC-E0401, an op that this target can't do.
    """
    main = Function("run", _symbol_limits(limits), weights, Schedule("main"))
    main.outputs = frozenset(graph.outputs)
    main.schedule.buffers[SCRATCH] = Buffer(SCRATCH, 0, external=True)
    context = _Context(graph, limits, state_slots(graph), main)
    _bind_inputs(context)
    logits = graph.outputs[0]
    place = main.external("logits", logits.type, "s.logits", const=False)
    if logits.producer is not None and place.storage is not None:
        main.result_storage[logits] = place.storage
    calls = _calls(graph)
    for node in graph.nodes:
        _emit(context, node, calls)
    finish(main, {logits: place})
    planned = plan_function(main)
    vocab = graph.vocab_size
    bodies = list(context.bodies.values())
    groups = cache_groups(graph, limits.block_size)
    sites = _site_texts(graph, groups)
    constants = _constants(context, planned, groups, vocab)
    source = render(planned, bodies, sites, [_group_text(g) for g in groups], constants)
    return Program(source, weights, planned, bodies, limits, groups, context.state, vocab)


def _symbol_limits(limits: Limits) -> dict[str, int]:
    sequences = limits.max_sequences
    return {
        "T": limits.max_tokens,
        "S": sequences,
        "S1": sequences + 1,
        "R": limits.max_logits_rows,
    }


def _calls(graph: Graph) -> dict[str, list[Node]]:
    calls: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node.op, Call):
            calls[node.op.body].append(node)
    return calls


def _emit(context: _Context, node: Node, calls: dict[str, list[Node]]) -> None:
    if not isinstance(node.op, Call):
        return emit_node(context.main, node)
    name = node.op.body
    if name not in context.bodies:
        body = emit_body(context.graph.bodies[name], context.main, calls[name])
        context.bodies[name] = body
    return emit_call(context.main, node, context.bodies[name])


def _bind_inputs(context: _Context) -> None:
    """Step arrays and tables by their roles. Parts of a site lie side by side, in one pool, or
    each at its place in a slot."""
    main = context.main
    parts = context.state.parts if context.state is not None else []
    offsets = {(part.site, part.name): part.offset for part in parts}
    for value in context.graph.inputs:
        role = value.role
        if isinstance(role, State) and is_slot_part(value):
            assert role.site is not None
            offset = offsets[role.site, role.part]
            bind_slot_part(main, value, str(offset), f"slot{offset}")
        elif isinstance(role, State):
            bind_pool(main, value, f"s.pools[{role.site}]", f"pool{role.site}")
        elif isinstance(role, Table):
            main.tables[value] = f"s.groups[{role.group}]"
        elif isinstance(role, StepArray) and role is not StepArray.START:
            name = role.value
            main.views[value] = main.external(name, value.type, f"s.{name}")
        else:
            raise refusal(None, f"graph input {value.name}")


def _site_texts(graph: Graph, groups: list[CacheGroup]) -> list[str]:
    """Each site's group, and its own bytes in a block of it."""
    paged = graph.groups[: len(groups)]
    group_of = {site: i for i, group in enumerate(paged) for site in group.sites}
    return [
        f"{{{i}, {groups[i].bytes_per_block // groups[i].layers}}}"
        for _, i in sorted(group_of.items())
    ]


def _group_text(group: CacheGroup) -> str:
    return f"{{{group.bytes_per_block}ull, {group.window}}}"


def _constants(context: _Context, main: Planned, groups: list[CacheGroup], vocab: int) -> list[str]:
    limits, sites = context.limits, sum(group.layers for group in groups)
    value_dim = max((group.value_dim or group.latent_dim for group in groups), default=1)
    weights = context.main.weights.nbytes
    return [
        f'"{ABI_VERSION};" LLMC_LEVEL',
        f"{limits.max_tokens}, {limits.max_sequences}, {limits.max_logits_rows}, "
        f"{limits.max_context}, {vocab}",
        f"{limits.block_size}, {len(groups)}, {'groups' if groups else 'nullptr'}",
        f"{sites}, {'pools' if sites else 'nullptr'}, {value_dim}",
        f"{weights}ull, {main.plan.arena_bytes}ull",
        "run, kernels",
        f"{context.state.bytes_per_slot if context.state is not None else 0}ull",
    ]
