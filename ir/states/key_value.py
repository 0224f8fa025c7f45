"""What paged and slot keys and values have in common: geometry, sharing, rotation on the way."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TypeVar

from ...artifact.manifest import CacheGroup, make_cache_group
from ..graph import Graph, Node, StateGroup, Value
from ..ops import (
    Attention,
    CacheWrite,
    LatentWrite,
    PagedAttention,
    PagedLatentAttention,
    Rotary,
    SlotAttention,
    SlotWrite,
)
from ..state import Site
from ..types import DType

Rotating = TypeVar(
    "Rotating",
    bound=CacheWrite
    | LatentWrite
    | SlotWrite
    | PagedAttention
    | PagedLatentAttention
    | SlotAttention,
)


@dataclass(frozen=True)
class KeyValueGeometry:
    """Keys and values of `heads` heads, as `dtype`; `window` 0 keeps all, else the latest."""

    window: int
    heads: int
    key: int
    value: int
    dtype: DType


def geometry_of(mixer: Node, cache: DType) -> KeyValueGeometry:
    """What an `Attention` keeps."""
    assert isinstance(mixer.op, Attention)
    k, v = mixer.inputs[1:3]
    (_, heads, key_dim), value_dim = k.type.shape, v.type.shape[-1]
    assert isinstance(heads, int)
    assert isinstance(key_dim, int)
    assert isinstance(value_dim, int)
    return KeyValueGeometry(mixer.op.window, heads, key_dim, value_dim, cache)


def content(mixer: Node) -> Hashable:
    """Attentions over the same keys and values, kept equally long, share them."""
    assert isinstance(mixer.op, Attention)
    return id(mixer.inputs[1]), id(mixer.inputs[2]), mixer.op.window


def rotating(op: Rotating, heads: Value) -> tuple[Rotating, Value, tuple[Value, ...]]:
    """`op` on `heads`, taking over the rotation that made them if nothing else reads its result.

    Returns the op, its operand and the tables of angles that follow the other operands.
    """
    node = heads.producer
    if node is None or not isinstance(node.op, Rotary) or len(heads.users) != 1:
        return op, heads, ()
    x, *angles = node.inputs
    return replace(op, rotary=node.op.dim, interleaved=node.op.interleaved), x, tuple(angles)


def write(graph: Graph, mixer: Node, op: CacheWrite | SlotWrite, site: Site) -> tuple[Value, ...]:
    """Add `op`, which stores the mixer's keys and values in the site."""
    op, k, angles = rotating(op, mixer.inputs[1])
    table = () if site.table is None else (site.table,)
    operands = [k, mixer.inputs[2], *site.parts, *site.arrays, *table, *angles]
    return graph.insert_before(mixer, op, operands).outputs


def read(
    graph: Graph,
    mixer: Node,
    op: PagedAttention | SlotAttention,
    site: Site,
    parts: tuple[Value, ...],
) -> Value:
    """Add `op`, the mixer's attention over what the site keeps."""
    op, q, angles = rotating(op, mixer.inputs[0])
    table = () if site.table is None else (site.table,)
    operands = [q, *parts, *site.arrays, *table, *mixer.inputs[3:], *angles]
    return graph.insert_before(mixer, op, operands).output


def cache_group(group: StateGroup, block_size: int) -> CacheGroup:
    """The manifest's entry."""
    kept: KeyValueGeometry = group.geometry
    return make_cache_group(
        name=group.name,
        window=kept.window,
        layers=len(group.sites),
        kv_heads=kept.heads,
        key_dim=kept.key,
        value_dim=kept.value,
        dtype=kept.dtype.value,
        block_size=block_size,
    )
