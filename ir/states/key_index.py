"""Keys of an index in pools of blocks: what chooses the keys that attention sees.

key_index(q, k, weights)  =>  pool = key_index_write(pool, k, …)
                              paged_key_index(q, weights, pool, …)

Tables and blocks are those of `paged`. Keys are kept in bf16 where the cache has fewer bits than
f32: a choice among close scores is not to be made by codes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ...artifact.manifest import CacheGroup, make_cache_group
from ..graph import Graph, Node, StateGroup, Value
from ..ops import CACHE_BLOCK, KeyIndex, KeyIndexWrite, PagedKeyIndex
from ..state import Site
from ..types import DType, Env, TensorType
from .paged import PAGED, pool_blocks


@dataclass(frozen=True)
class IndexGeometry:
    """Keys of `key` elements, as `dtype`."""

    key: int
    dtype: DType


class Index:
    """Blocks of `CACHE_BLOCK` tokens, one key each."""

    name = "index"
    mixer = KeyIndex
    geometry = IndexGeometry
    arrays = PAGED.arrays
    table = PAGED.table
    uniform_query = False

    def geometry_of(self, mixer: Node, cache: DType) -> IndexGeometry:
        """The size of a key."""
        key = mixer.inputs[1].type.shape[-1]
        assert isinstance(key, int)
        return IndexGeometry(key, cache if cache is DType.F32 else DType.BF16)

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """A pool [P, CACHE_BLOCK, D]."""
        kept: IndexGeometry = group.geometry
        return {"index_pool": TensorType(kept.dtype, (pool_blocks(group), CACHE_BLOCK, kept.key))}

    def content(self, mixer: Node) -> Hashable:
        """The keys themselves."""
        return id(mixer.inputs[1])

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """Keys of this step's tokens go to their blocks."""
        assert site.table is not None
        operands = [*site.parts, mixer.inputs[1], *site.arrays, site.table]
        return graph.insert_before(mixer, KeyIndexWrite(), operands).outputs

    def read(self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Value:
        """The choice among the blocks of each sequence's table."""
        op, (q, _, weights) = mixer.op, mixer.inputs
        assert isinstance(op, KeyIndex)
        assert site.table is not None
        operands = [q, weights, *parts, *site.arrays, site.table]
        return graph.insert_before(mixer, PagedKeyIndex(op.topk, op.scale), operands).output

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """`count` blocks; their size is the op's own."""
        return {pool_blocks(group).name: count}

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup:
        """Keys without values."""
        kept: IndexGeometry = group.geometry
        return make_cache_group(
            name=group.name,
            window=0,
            layers=len(group.sites),
            kv_heads=1,
            key_dim=kept.key,
            value_dim=0,
            dtype=kept.dtype.value,
            block_size=block_size,
        )


INDEX = Index()
