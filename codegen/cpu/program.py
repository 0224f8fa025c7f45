"""A serving graph → the C++ source of a program, its weight tensors and its memory plan."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ...artifact.manifest import ABI_VERSION, CacheGroup, Limits, make_cache_group
from ...ir.graph import Graph, Node, Value
from ...ir.ops import CACHE_BLOCK, Call, PagedAttention
from ...ir.ops.cache_codes import pool_widths
from ...ir.plan import Buffer, Schedule
from ...ir.types import Dim, DType, Sym
from ...weights.table import WeightTable
from .bodies import (
    Body,
    Planned,
    bind_pool,
    emit_body,
    emit_call,
    finish,
    is_block_table,
    is_pool,
    plan_function,
)
from .emit_attention import SCRATCH
from .emitters import emit_node
from .function import Function, refusal
from .render import render

_STEP_ARRAYS = ("token_ids", "positions", "query_start", "context_len", "logits_rows")


@dataclass(frozen=True, slots=True)
class Site:
    """Keys and values of one attention site; a block of its group holds all sites in this order.

    `key_dim`: of an int8 cache the size in memory, a multiple of 16.
    """

    group: int
    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: DType

    def group_of(self, number: int, window: int, layers: int) -> CacheGroup:
        """The manifest's entry of a group of such sites."""
        return make_cache_group(
            name=f"group{number}",
            window=window,
            layers=layers,
            kv_heads=self.kv_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            dtype=self.dtype.value,
            block_size=CACHE_BLOCK,
        )


@dataclass(slots=True)
class Program:
    """Everything generated from one graph, before any compiler or weight is touched."""

    source: str
    weights: WeightTable
    main: Planned
    bodies: list[Body]
    sites: list[Site]
    limits: Limits
    cache_groups: list[CacheGroup]
    vocab_size: int


@dataclass(slots=True)
class _Context:
    graph: Graph
    limits: Limits
    main: Function
    sites: list[Site] = field(default_factory=list)
    bodies: dict[str, Body] = field(default_factory=dict)


def generate(graph: Graph, limits: Limits, weights: WeightTable) -> Program:
    """Generate the program of a graph in phase SERVING; its tensors go to `weights`.

    Raises:
        LlmcError: LLMC-E0401, an op that this target can't do.
    """
    main = Function("run", _symbol_limits(limits), weights, Schedule("main"))
    main.schedule.buffers[SCRATCH] = Buffer(SCRATCH, 0, external=True)
    context = _Context(graph, limits, main)
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
    vocab = _fixed(logits.type.shape[-1])
    bodies = list(context.bodies.values())
    sites = [_site_text(site) for site in context.sites]
    groups = _cache_groups(context)
    constants = _constants(context, planned, groups, vocab)
    source = render(planned, bodies, sites, [_group_text(g) for g in groups], constants)
    return Program(source, weights, planned, bodies, context.sites, limits, groups, vocab)


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
    main = context.main
    pools: dict[str, Value] = {}
    for value in context.graph.inputs:
        kind, _, number = value.name.partition(".")
        if is_pool(value.type):
            pools[value.name] = value
        elif is_block_table(value.type):
            main.tables[value] = f"s.groups[{int(number)}]"
        elif kind in _STEP_ARRAYS:
            main.views[value] = main.external(kind, value.type, f"s.{kind}")
        else:
            raise refusal(None, f"graph input {value.name}")
    for index in range(len(pools) // 2):
        keys, values = pools[f"key_pool.{index}"], pools[f"value_pool.{index}"]
        for value in (keys, values):  # they lie side by side
            bind_pool(main, value, f"s.pools[{index}]", f"pool{index}")
        context.sites.append(_site(keys, values))


def _site(keys: Value, values: Value) -> Site:
    blocks = keys.type.shape[0]
    assert isinstance(blocks, Sym)
    heads, key_width, value_width = map(_fixed, (*keys.type.shape[2:], values.type.shape[-1]))
    dtype = keys.type.dtype
    key_extra, value_extra = pool_widths(dtype, 0, 0)
    dims = key_width - key_extra, value_width - value_extra
    return Site(int(blocks.name[1:] or 0), heads, *dims, dtype)


def _fixed(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def _cache_groups(context: _Context) -> list[CacheGroup]:
    windows = _windows(context)
    groups: list[CacheGroup] = []
    for number in sorted({site.group for site in context.sites}):
        members = [site for site in context.sites if site.group == number]
        if len(set(members)) != 1:
            raise refusal(None, f"cache group {number} mixes shapes {set(members)}")
        groups.append(members[0].group_of(number, windows.get(number, 0), len(members)))
    return groups


def _windows(context: _Context) -> dict[int, int]:
    """Window of each group: how far back any of its attentions looks, 0 if one sees everything."""
    seen: dict[int, set[int]] = defaultdict(set)
    for node, table in _attentions(context.graph):
        number = context.main.tables[table].removeprefix("s.groups[")[:-1]
        assert isinstance(node.op, PagedAttention)
        seen[int(number)].add(node.op.window)
    return {group: 0 if 0 in windows else max(windows) for group, windows in seen.items()}


def _attentions(graph: Graph) -> list[tuple[Node, Value]]:
    """Every attention that runs, with its block table as the main graph knows it."""
    found: list[tuple[Node, Value]] = []
    for node in graph.nodes:
        if isinstance(node.op, PagedAttention):
            found.append((node, node.inputs[5]))
        elif isinstance(node.op, Call):
            body = graph.bodies[node.op.body]
            outer = dict(zip(body.inputs, node.inputs, strict=True))
            found += [(inner, outer[table]) for inner, table in _attentions(body)]
    return found


def _site_text(site: Site) -> str:
    return f"{{{site.group}, {site.group_of(site.group, 0, 1).bytes_per_block}}}"


def _group_text(group: CacheGroup) -> str:
    return f"{{{group.bytes_per_block}ull, {group.window}}}"


def _constants(context: _Context, main: Planned, groups: list[CacheGroup], vocab: int) -> list[str]:
    limits, sites = context.limits, context.sites
    value_dim = max((site.value_dim for site in sites), default=1)
    weights = context.main.weights.nbytes
    return [
        f'"{ABI_VERSION};" LLMC_LEVEL',
        f"{limits.max_tokens}, {limits.max_sequences}, {limits.max_logits_rows}, "
        f"{limits.max_context}, {vocab}",
        f"{limits.block_size}, {len(groups)}, {'groups' if groups else 'nullptr'}",
        f"{len(sites)}, {'pools' if sites else 'nullptr'}, {value_dim}",
        f"{weights}ull, {main.plan.arena_bytes}ull",
        "run, kernels",
    ]
