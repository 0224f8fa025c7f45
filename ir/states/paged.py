"""Paged keys and values: pools of blocks, and a block table for each group.

attention(rotary(q), rotary(k), v)  =>  pools = cache_write(k, v, …) {rotary}
                                        paged_attention(q, pools, …) {rotary}
"""

from __future__ import annotations

from collections.abc import Hashable

from ...artifact.manifest import CacheGroup
from ..graph import Graph, Node, StateGroup, Value
from ..ops import CACHE_BLOCK, Attention, CacheWrite, PagedAttention
from ..ops.cache_codes import pool_widths
from ..roles import StepArray
from ..state import Site
from ..types import DType, Env, S, Sym, TensorType
from . import key_value
from .key_value import KeyValueGeometry


class Paged:
    """Blocks of `CACHE_BLOCK` tokens, whose keys and values are as `cache_codes.py` says."""

    name = "paged"
    mixer = Attention
    geometry = KeyValueGeometry
    arrays = (
        (StepArray.QUERY_START, TensorType(DType.I32, (Sym("S1"),))),
        (StepArray.CONTEXT_LEN, TensorType(DType.I32, (S,))),
    )
    table = TensorType(DType.I32, (S, Sym("B")))
    uniform_query = False

    def geometry_of(self, mixer: Node, cache: DType) -> KeyValueGeometry:
        """Heads, sizes and window of the attention."""
        return key_value.geometry_of(mixer, cache)

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """Pools [P, CACHE_BLOCK, H_kv, width] of keys and of values."""
        kept: KeyValueGeometry = group.geometry
        widths = pool_widths(kept.dtype, kept.key, kept.value)
        shapes = ((pool_blocks(group), CACHE_BLOCK, kept.heads, width) for width in widths)
        keys, values = (TensorType(kept.dtype, shape) for shape in shapes)
        return {"key_pool": keys, "value_pool": values}

    def content(self, mixer: Node) -> Hashable:
        """The keys and values themselves."""
        return key_value.content(mixer)

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """Keys and values of this step's tokens go to their blocks."""
        return key_value.write(graph, mixer, CacheWrite(), site)

    def read(self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Value:
        """Attention over the blocks of each sequence's table."""
        op = mixer.op
        assert isinstance(op, Attention)
        paged = PagedAttention(op.scale, op.window, op.softcap, op.sinks, op.slopes)
        return key_value.read(graph, mixer, paged, site, parts)

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """`count` blocks; their size is the op's own."""
        return {pool_blocks(group).name: count}

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup:
        """Full or sliding; bytes per block."""
        return key_value.cache_group(group, block_size)


def pool_blocks(group: StateGroup) -> Sym:
    """The dimension that counts the blocks of a group's pools."""
    return Sym(f"P{group.name}")


PAGED = Paged()
