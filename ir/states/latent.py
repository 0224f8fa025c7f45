"""Latents in pools of blocks: one vector a token for all heads, read as key and as value.

latent_attention(q, c, q_rope, rotary(k_rope))  =>  pool = latent_write(pool, c, k_rope, …) {rotary}
                                                    paged_latent_attention(q, q_rope, pool, …)

Tables and blocks are those of `paged`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ...artifact.manifest import CacheGroup, make_cache_group
from ..graph import Graph, Node, StateGroup, Value
from ..ops import CACHE_BLOCK, LatentAttention, LatentWrite, PagedLatentAttention
from ..ops.latent_codes import latent_width
from ..state import Site
from ..types import DType, Env, TensorType
from .key_value import rotating
from .paged import PAGED, pool_blocks


@dataclass(frozen=True)
class LatentGeometry:
    """Latents of `latent` elements, `rope` elements beside each, as `dtype`; `window` as ever."""

    window: int
    latent: int
    rope: int
    dtype: DType


class Latent:
    """Blocks of `CACHE_BLOCK` tokens, whose latents are as `latent_codes.py` says."""

    name = "latent"
    mixer = LatentAttention
    geometry = LatentGeometry
    arrays = PAGED.arrays
    table = PAGED.table
    uniform_query = False

    def geometry_of(self, mixer: Node, cache: DType) -> LatentGeometry:
        """Sizes and window of the attention."""
        op = mixer.op
        assert isinstance(op, LatentAttention)
        latent = mixer.inputs[1].type.shape[-1]
        rope = mixer.inputs[3].type.shape[-1] if op.rope else 0
        assert isinstance(latent, int)
        assert isinstance(rope, int)
        return LatentGeometry(op.window, latent, rope, cache)

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        """A pool [P, CACHE_BLOCK, width]."""
        kept: LatentGeometry = group.geometry
        width = latent_width(kept.dtype, kept.latent, kept.rope)
        return {"latent_pool": TensorType(kept.dtype, (pool_blocks(group), CACHE_BLOCK, width))}

    def content(self, mixer: Node) -> Hashable:
        """The latents themselves and what is beside them."""
        op = mixer.op
        assert isinstance(op, LatentAttention)
        return id(mixer.inputs[1]), op.rope and id(mixer.inputs[3]), op.window

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        """Latents of this step's tokens go to their blocks."""
        op, beside, angles = LatentWrite(), [], ()
        assert isinstance(mixer.op, LatentAttention)
        if mixer.op.rope:
            op, k_rope, angles = rotating(LatentWrite(rope=True), mixer.inputs[3])
            beside = [k_rope]
        assert site.table is not None
        operands = [*site.parts, mixer.inputs[1], *beside, *site.arrays, site.table, *angles]
        return graph.insert_before(mixer, op, operands).outputs

    def read(self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Value:
        """Attention over the blocks of each sequence's table."""
        plain = mixer.op
        assert isinstance(plain, LatentAttention)
        op = PagedLatentAttention(
            plain.scale, plain.window, plain.softcap, plain.sinks, plain.rope,
            selected=plain.selected,
        )  # fmt: skip
        q, _, *rest = mixer.inputs
        queries, angles = [q], ()
        if plain.rope:
            op, q_rope, angles = rotating(op, rest[0])
            queries, rest = [q, q_rope], rest[2:]
        assert site.table is not None
        operands = [*queries, *parts, *site.arrays, site.table, *rest, *angles]
        return graph.insert_before(mixer, op, operands).output

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        """`count` blocks; their size is the op's own."""
        return {pool_blocks(group).name: count}

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup:
        """One key a token, whose first elements are its value."""
        kept: LatentGeometry = group.geometry
        return make_cache_group(
            name=group.name,
            window=kept.window,
            layers=len(group.sites),
            kv_heads=1,
            key_dim=kept.latent + kept.rope,
            value_dim=0,
            latent_dim=kept.latent,
            dtype=kept.dtype.value,
            block_size=block_size,
        )


LATENT = Latent()
