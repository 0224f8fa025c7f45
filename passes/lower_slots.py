"""Lower attention to slots, for runtimes that keep one contiguous cache a sequence.

    attention(rotary(q), rotary(k), v)  =>  caches = slot_write(k, v, …) {rotary}
                                            slot_attention(q, caches, start) {rotary}

Adds the input `start` and two caches per attention site. Cache groups are those of the paged
form; here they only say what the manifest has to say about the memory. After: no `Attention`.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, Node, Value
from ..ir.ops import LENGTH, Attention, Rotary, SlotAttention, SlotWrite
from ..ir.types import DType, S, TensorType
from .lower_attention import group_of_site, own_rotary


def lower_slots(graph: Graph, cache: DType) -> bool:
    """Replace every attention; True if there was one. `cache` is the caches' element type."""
    sites = [n for n in graph.nodes if isinstance(n.op, Attention)]
    if not sites:
        return False
    start = graph.add_input("start", TensorType(DType.I32, (S,)))
    written: dict[tuple, tuple[Value, Value]] = {}
    for node in sites:
        op = node.op
        assert isinstance(op, Attention)
        q, k, v = node.inputs[:3]
        key = (id(k), id(v), op.window)
        if key not in written:
            written[key] = _write(graph, node, cache, start)
        slot = SlotAttention(op.scale, op.window, op.softcap, op.sinks)
        angles: list[Value] = []
        rotary = own_rotary(q)
        if rotary is not None:
            assert isinstance(rotary.op, Rotary)
            slot = replace(slot, rotary=rotary.op.dim, interleaved=rotary.op.interleaved)
            q, *angles = rotary.inputs
        operands = [q, *written[key], start, *node.inputs[3:], *angles]
        graph.replace_uses(node.output, graph.insert_before(node, slot, operands).output)
    graph.erase_dead()
    return True


def _write(graph: Graph, node: Node, cache: DType, start: Value) -> tuple[Value, Value]:
    """Add a site's caches and the write of this run's keys and values; the caches after it."""
    k, v = node.inputs[1:3]
    site = sum(len(g.sites) for g in graph.cache_groups)
    group_of_site(graph, node, k, v, cache).sites.append(site)
    caches = [
        graph.add_input(f"{name}.{site}", TensorType(cache, (S, heads, LENGTH, width)))
        for name, (_, heads, width) in (("key_cache", k.type.shape), ("value_cache", v.type.shape))
    ]
    rotary = own_rotary(k)
    if rotary is None:
        op, operands = SlotWrite(), [k, v, *caches, start]
    else:
        assert isinstance(rotary.op, Rotary)
        op = SlotWrite(rotary.op.dim, rotary.op.interleaved)
        operands = [rotary.inputs[0], v, *caches, start, *rotary.inputs[1:]]
    key_cache, value_cache = graph.insert_before(node, op, operands).outputs
    return key_cache, value_cache
