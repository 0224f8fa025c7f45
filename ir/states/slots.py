"""Keys and values in slots, for runtimes that keep one contiguous cache a sequence.

    attention(rotary(q), rotary(k), v)  =>  caches = slot_write(k, v, …) {rotary}
                                            slot_attention(q, caches, start) {rotary}

Groups only say what the manifest has to say about memory: there is no table, since a run is over a
range of slots (`ir/ops/slots.py`).
"""

from __future__ import annotations

from collections.abc import Hashable

from ...artifact.manifest import CacheGroup
from ..graph import Graph, Node, StateGroup, Value
from ..ops import LENGTH, Attention, SlotAttention, SlotWrite
from ..roles import StepArray
from ..state import Site
from ..types import DType, Env, S, TensorType
from . import key_value
from .key_value import KeyValueGeometry


class Slots:
    """One slot a sequence, as long as `block_size` says."""

    name = "slots"
    mixer = Attention
    geometry = KeyValueGeometry
    arrays = ((StepArray.START, TensorType(DType.I32, (S,))),)
    table = None
    uniform_query = True

    def geometry_of(self, mixer: Node, cache: DType) -> KeyValueGeometry:
        """Heads, sizes and window of the attention."""
        return key_value.geometry_of(mixer, cache)

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """Caches [S, H_kv, L, D] of keys and of values."""
        kept: KeyValueGeometry = group.geometry
        shapes = ((S, kept.heads, LENGTH, width) for width in (kept.key, kept.value))
        keys, values = (TensorType(kept.dtype, shape) for shape in shapes)
        return {"key_cache": keys, "value_cache": values}

    def content(self, mixer: Node) -> Hashable:
        """The keys and values themselves."""
        return key_value.content(mixer)

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """Keys and values of this run's tokens go behind those that the slots hold."""
        return key_value.write(graph, mixer, SlotWrite(), site)

    def read(self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Value:
        """Attention of every sequence over its slot."""
        op = mixer.op
        assert isinstance(op, Attention)
        slot = SlotAttention(op.scale, op.window, op.softcap, op.sinks, op.slopes)
        return key_value.read(graph, mixer, slot, site, parts)

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """`count` slots of `block_size` tokens."""
        return {S.name: count, LENGTH.name: block_size}

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup:
        """A slot is one block."""
        return key_value.cache_group(group, block_size)


SLOTS = Slots()
