"""Lower attention to the paged cache: the program signature of the design.

    attention(rotary(q), rotary(k), v)  =>  pools = cache_write(k, v, …) {rotary}
                                            paged_attention(q, pools, …) {rotary}

Adds the serving inputs: query_start, context_len, one block table per cache group and two
pools per attention site. Sites with the same window, heads and element type are one group;
sites that read the same keys and values share pools. After: no `Attention` is left.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import CacheGroup, Graph, Node, Value
from ..ir.ops import CACHE_BLOCK, Attention, CacheWrite, PagedAttention, Rotary
from ..ir.ops.cache_codes import pool_widths
from ..ir.types import DType, S, Sym, TensorType


def lower_attention(graph: Graph, cache: DType) -> bool:
    """Replace every attention; True if there was one. `cache` is the pools' element type."""
    sites = [n for n in graph.nodes if isinstance(n.op, Attention)]
    if not sites:
        return False
    query_start = graph.add_input("query_start", TensorType(DType.I32, (Sym("S1"),)))
    context_len = graph.add_input("context_len", TensorType(DType.I32, (S,)))
    meta = (query_start, context_len)
    written: dict[tuple, tuple[Value, Value, Value]] = {}
    for node in sites:
        op = node.op
        assert isinstance(op, Attention)
        q, k, v = node.inputs[:3]
        key = (id(k), id(v), op.window)
        if key not in written:
            written[key] = _write(graph, node, k, v, cache, meta)
        key_pool, value_pool, table = written[key]
        paged = PagedAttention(op.scale, op.window, op.softcap, op.sinks)
        angles: list[Value] = []
        rotary = own_rotary(q)
        if rotary is not None:
            assert isinstance(rotary.op, Rotary)
            paged = replace(paged, rotary=rotary.op.dim, interleaved=rotary.op.interleaved)
            q, *angles = rotary.inputs
        operands = [q, key_pool, value_pool, *meta, table, *node.inputs[3:], *angles]
        graph.replace_uses(node.output, graph.insert_before(node, paged, operands).output)
    graph.erase_dead()
    return True


def own_rotary(heads: Value) -> Node | None:
    """The rotation that made `heads`, if nothing else reads its result."""
    node = heads.producer
    rotates = node is not None and isinstance(node.op, Rotary) and len(heads.users) == 1
    return node if rotates else None


def _write(
    graph: Graph, node: Node, k: Value, v: Value, cache: DType, meta: tuple[Value, Value]
) -> tuple[Value, Value, Value]:
    """Add pools and the write of this step's keys and values; (key pool, value pool, table)."""
    group, table = _group(graph, node, k, v, cache)
    site = sum(len(g.sites) for g in graph.cache_groups)
    group.sites.append(site)
    blocks = Sym(f"P{group.name}")
    widths = pool_widths(cache, group.key_dim, group.value_dim)
    pools = [
        graph.add_input(
            f"{name}.{site}", TensorType(cache, (blocks, CACHE_BLOCK, group.kv_heads, width))
        )
        for name, width in zip(("key_pool", "value_pool"), widths, strict=True)
    ]
    rotary = own_rotary(k)
    if rotary is not None:
        assert isinstance(rotary.op, Rotary)
        op = CacheWrite(rotary.op.dim, rotary.op.interleaved)
        operands = [rotary.inputs[0], v, *pools, *meta, table, *rotary.inputs[1:]]
    else:
        op, operands = CacheWrite(), [k, v, *pools, *meta, table]
    key_pool, value_pool = graph.insert_before(node, op, operands).outputs
    return key_pool, value_pool, table


def _group(graph: Graph, node: Node, k: Value, v: Value, cache: DType) -> tuple[CacheGroup, Value]:
    """The group of a site and its block table, both made if new."""
    group = group_of_site(graph, node, k, v, cache)
    name = f"block_table.{group.name}"
    table = next((i for i in graph.inputs if i.name == name), None)
    return group, table or graph.add_input(name, TensorType(DType.I32, (S, Sym("B"))))


def group_of_site(graph: Graph, node: Node, k: Value, v: Value, cache: DType) -> CacheGroup:
    """The cache group of the attention `node`, which keeps `k` and `v`; made if it is new."""
    assert isinstance(node.op, Attention)
    (_, heads, key_dim), value_dim = k.type.shape, v.type.shape[-1]
    assert isinstance(heads, int)
    assert isinstance(key_dim, int)
    assert isinstance(value_dim, int)
    wanted = (node.op.window, heads, key_dim, value_dim, cache)
    for group in graph.cache_groups:
        if (group.window, group.kv_heads, group.key_dim, group.value_dim, group.dtype) == wanted:
            return group
    group = CacheGroup(str(len(graph.cache_groups)), *wanted, sites=[])
    graph.cache_groups.append(group)
    return group
