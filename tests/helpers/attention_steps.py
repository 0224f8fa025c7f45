"""Steps for tests of the triton target's attention kernels: arrays, pools, and pools in memory.

Blocks lie in random order; whatever a step must not look at is NaN (codes: random, with NaN
scales): slots behind the context, blocks of nobody. Blocks that a window has left are -1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from interpreted_kernels import interpreted
from llmc.ir.ops.attention import CacheWrite, PagedAttention
from llmc.ir.ops.cache_codes import encode_keys, encode_values, padded
from llmc.ir.types import DType

BLOCK = 64
GAP = 128
"""Bytes of other layers before and behind this one's part of a block."""


@dataclass(frozen=True)
class Geometry:
    """One layer's attention: heads, sizes, and how the cache holds them."""

    group: int = 2
    kv_heads: int = 2
    key: int = 16
    value: int = 16
    window: int = 0
    cache: torch.dtype = torch.float32

    @property
    def heads(self) -> int:
        return self.group * self.kv_heads

    @property
    def head_bytes(self) -> int:
        codes = self.cache == torch.int8
        width = padded(self.key) + padded(self.value)
        return BLOCK * (width * self.cache.itemsize + (8 if codes else 0))

    @property
    def block_bytes(self) -> int:
        return self.kv_heads * self.head_bytes + 2 * GAP


@dataclass
class Step:
    """`sequences`: (context length with this step's tokens, query tokens); `spare` tokens and
    `empty` slots pad the arrays."""

    geometry: Geometry
    sequences: list[tuple[int, int]]
    spare: int = 0
    empty: int = 0
    seed: int = 0
    query_start: torch.Tensor = field(init=False)
    context_len: torch.Tensor = field(init=False)
    table: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        starts = [0]
        for _, queries in self.sequences:
            starts.append(starts[-1] + queries)
        starts += [starts[-1]] * self.empty
        self.query_start = torch.tensor(starts, dtype=torch.int32)
        contexts = [context for context, _ in self.sequences] + [0] * self.empty
        self.context_len = torch.tensor(contexts, dtype=torch.int32)
        self.table = self._table(max(contexts) // BLOCK + 2)

    @property
    def tokens(self) -> int:
        return int(self.query_start[-1]) + self.spare

    @property
    def slots(self) -> int:
        return len(self.context_len)

    def _table(self, columns: int) -> torch.Tensor:
        table = torch.full((self.slots, columns), -1, dtype=torch.int32)
        needed = sum(-(-context // BLOCK) for context, _ in self.sequences)
        free = torch.randperm(needed + 2, generator=self.generator).tolist()
        self.blocks = needed + 2
        for s, (context, queries) in enumerate(self.sequences):
            window = self.geometry.window
            oldest = max(0, context - queries - window + 1) if window else 0
            for column in range(oldest // BLOCK, -(-context // BLOCK)):
                table[s, column] = free.pop()
        return table

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def sequence_of(self) -> torch.Tensor:
        owner = torch.full((self.tokens,), self.slots, dtype=torch.int32)
        for s in range(self.slots):
            owner[self.query_start[s] : self.query_start[s + 1]] = s
        return owner

    def positions(self) -> torch.Tensor:
        positions = torch.zeros(self.tokens, dtype=torch.int32)
        for s, (context, queries) in enumerate(self.sequences):
            first = int(self.query_start[s])
            positions[first : first + queries] = torch.arange(context - queries, context)
        return positions

    def empty_pools(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pools as the ops see them, full of NaN."""
        g = self.geometry
        widths = (g.key, g.value)
        if g.cache == torch.int8:
            widths = (padded(g.key) + 4, g.value + 4)
        shapes = [(self.blocks, BLOCK, g.kv_heads, width) for width in widths]
        if g.cache == torch.int8:
            keys, values = (torch.full(shape, -1, dtype=torch.int8) for shape in shapes)
        else:
            keys, values = (torch.full(shape, float("nan"), dtype=g.cache) for shape in shapes)
        return keys, values

    def filled_pools(
        self, keys: list[torch.Tensor] | None = None, values: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pools that hold what a step may look at: random, or keys and values [context, …]."""
        g = self.geometry
        kind = DType.I8 if g.cache == torch.int8 else DType.F32
        key_pool, value_pool = self.empty_pools()
        for s, (context, _) in enumerate(self.sequences):
            k = self.normal(context, g.kv_heads, g.key) if keys is None else keys[s]
            v = self.normal(context, g.kv_heads, g.value) if values is None else values[s]
            position = torch.arange(context)
            position = position[self.table[s, position // BLOCK] >= 0]
            block = self.table[s, position // BLOCK].long()
            place = position % BLOCK
            key_pool[block, place] = encode_keys(k[position], kind).to(g.cache)
            value_pool[block, place] = encode_values(v[position], kind).to(g.cache)
        return key_pool, value_pool


def to_memory(geometry: Geometry, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Pools as the ops see them → blocks as the target keeps them, u8 [P, block_bytes]."""
    g = geometry
    memory = torch.full((len(keys), g.block_bytes), 0xFF, dtype=torch.uint8)
    for head in range(g.kv_heads):
        for part, pool in zip(_parts(g, memory, head), (keys, values), strict=True):
            codes, scales = part
            stored = pool[:, :, head]
            width = stored.shape[-1] - (4 if scales is not None else 0)
            codes[..., :width] = stored[..., :width].contiguous().view(g.cache)
            if scales is not None:
                scales[:] = stored[..., width:].contiguous().view(torch.float32)[..., 0]
    return memory


def from_memory(geometry: Geometry, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The way back."""
    g = geometry
    pools: list[list[torch.Tensor]] = [[], []]
    for head in range(g.kv_heads):
        parts = _parts(g, memory, head)
        key_width = padded(g.key) if g.cache == torch.int8 else g.key
        for pool, (codes, scales), width in zip(pools, parts, (key_width, g.value), strict=True):
            stored = codes[..., :width]
            if scales is not None:
                scale = scales.contiguous().unsqueeze(-1).view(torch.int8)
                stored = torch.cat((stored, scale), -1)
            pool.append(stored)
    keys, values = (torch.stack(pool, 2) for pool in pools)
    return keys, values


def _parts(
    g: Geometry, memory: torch.Tensor, head: int
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Views of a head's keys and values [P, 64, width], and their scales [P, 64] if any."""
    at = GAP + head * g.head_bytes
    parts = []
    for size in (g.key, g.value):
        length = BLOCK * padded(size) * g.cache.itemsize
        parts.append(memory[:, at : at + length].view(g.cache).unflatten(1, (BLOCK, padded(size))))
        at += length
    if g.cache != torch.int8:
        return [(part, None) for part in parts]
    scales = memory[:, at : at + 8 * BLOCK].view(torch.float32).unflatten(1, (2, BLOCK))
    return [(part, scales[:, i]) for i, part in enumerate(parts)]


def pool_pointer(geometry: Geometry, memory: torch.Tensor) -> torch.Tensor:
    """What kernels take: the layer's part of block 0, typed as the cache's elements."""
    return memory.view(-1)[GAP:].view(geometry.cache)


def power(size: int) -> int:
    """The width of a tile for heads of `size`."""
    return max(16, 1 << (size - 1).bit_length())


def prepared(
    step: Step,
    q: torch.Tensor | None,
    op: CacheWrite | PagedAttention,
    tables: tuple[torch.Tensor, ...] = (),
    memory: torch.Tensor | None = None,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    block: int = 4,
) -> torch.Tensor:
    """`prepare_heads` under the interpreter: queries [T + 1, H, D rounded up], whose last row is
    poison; k and v go to `memory`. `op` says what is rotated, of all that is given."""
    g = step.geometry
    width = padded(g.key)
    codes = g.cache == torch.int8
    kind = torch.bfloat16 if codes else g.cache
    queries = torch.full((step.tokens + 1, g.heads, width), float("nan"), dtype=kind)
    cos, sin = tables or (None, None)
    heads, kv_heads = 0 if q is None else g.heads, 0 if k is None else g.kv_heads
    pool = None if memory is None else pool_pointer(g, memory)
    interpreted("prepare_heads").prepare_heads[(-(-step.tokens // block), heads + kv_heads)](
        q, k, v, cos, sin, step.sequence_of(), step.positions(), step.table, queries, pool,
        step.tokens, step.slots, HEADS=heads, KV_HEADS=kv_heads, KEY=g.key, VALUE=g.value,
        Q_STRIDE=q.stride(0) if q is not None else 0,
        K_STRIDE=k.stride(0) if k is not None else 0,
        V_STRIDE=v.stride(0) if v is not None else 0,
        TABLE_STRIDE=cos.stride(0) if cos is not None else 0, COLUMNS=step.table.shape[1],
        BLOCK_BYTES=g.block_bytes, Q_ROTARY=op.rotary, K_ROTARY=op.rotary,
        INTERLEAVED=op.interleaved, HADAMARD=width & -width if codes else 0, BLOCK_TOKENS=block,
        KEY_BLOCK=power(g.key), VALUE_BLOCK=power(g.value), PORTABLE=True,
    )  # fmt: skip
    return queries
