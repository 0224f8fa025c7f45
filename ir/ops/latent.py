"""Latent attention: keys and values that are one small vector a token, shared by all heads.

The keys of head h are `[U_h c, k_rope]` and its values `V_h c`, with one *latent* c f32[R] a token
and one part beside it that positions may rotate. Since q · U_h c = (U_hᵀ q) · c and a weighted sum
of V_h c is V_h times that of c, heads that are multiplied with U_h before and with V_h after attend
to the latents themselves (arXiv 2405.04434): one kv head, whose values are the first R elements of
its keys. It is the same arithmetic for prompts and for single tokens.

A pool is `[P, 64, width]`; how it holds a latent is in `latent_codes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..phase import Phase
from ..types import DType, TensorType
from .attention import CACHE_BLOCK, Rotary, query_spans, visible
from .base import Op, require
from .key_index import chosen
from .latent_codes import decode_latents, encode_latents, latent_width, rotated_queries, turned_back


def require_latents(op: Op, q: TensorType, c: TensorType, rope: tuple[TensorType, ...]) -> None:
    """q [T, H, R] fits c [T, R], and q_rope [T, H, r] fits k_rope [T, 1, r]."""
    require(q.rank == 3 and c.shape == (q.shape[0], q.shape[2]), f"{op} of {q} over {c}")
    if rope:
        q_rope, k_rope = rope
        same = q_rope.rank == 3 and q_rope.shape[:2] == q.shape[:2]
        require(same, f"{op}: {q_rope} beside {q}")
        require(k_rope.shape == (q.shape[0], 1, q_rope.shape[2]), f"{op}: {q_rope} over {k_rope}")


@dataclass(frozen=True)
class LatentAttention(Op):
    """Causal attention of one whole sequence to its latents.

    q f32[T, H, R], c [T, R]; with `rope` q_rope [T, H, r] and k_rope [T, 1, r]; with `sinks` [H].
    Result f32[T, H, R]: sums of c weighted by the softmax of scale (q · c + q_rope · k_rope).
    `window`, `softcap` and `sinks` as for `Attention`. With `selected` a last input, a choice
    i32[T, topk] (`key_index.py`): only these are seen.
    """

    last_phase = Phase.QUANTIZED
    mixes_tokens = True

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    rope: bool = False
    selected: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, c, *rest = inputs
        count = 2 * self.rope + self.sinks + self.selected
        require(len(rest) == count, f"{self}: {len(inputs)} inputs")
        require_latents(self, q, c, tuple(rest[:2]) if self.rope else ())
        return (q.with_dtype(DType.F32),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, keys, *rest = inputs
        latent = keys.shape[-1]
        if self.rope:
            q, keys = torch.cat((q, rest[0]), -1), torch.cat((keys, rest[1][:, 0]), -1)
        given = rest[2 * self.rope :]
        return attend_latents(self, q, keys, keys[:, :latent], 0, given)


def attend_latents(
    op: LatentAttention | PagedLatentAttention,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first: int,
    given: Sequence[torch.Tensor],
    first_key: int = 0,
) -> torch.Tensor:
    """Attention of q [Q, H, D] at positions `first…` over keys [L, D] at `first_key…`, [L, R].

    `given`: sinks and the choice, as far as the op has them.
    """
    sinks = given[0] if op.sinks else None
    scores = torch.einsum("qhd,kd->hqk", q, keys) * op.scale
    if op.softcap:
        scores = op.softcap * torch.tanh(scores / op.softcap)
    i = torch.arange(first, first + q.shape[0]).unsqueeze(1)
    j = torch.arange(first_key, first_key + keys.shape[0])
    seen = visible(i, j, op.window)
    if op.selected:
        picked = chosen(given[int(op.sinks)], first, first_key + keys.shape[0])
        seen = seen & torch.stack([torch.isin(j, positions) for positions in picked])
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(-1, 1, 1).expand(-1, q.shape[0], 1)), -1)
    p = torch.softmax(scores, -1)[..., : keys.shape[0]]
    return torch.einsum("hqk,kr->qhr", p, values)


@dataclass(frozen=True)
class LatentWrite(Op):
    """Store c [T, R] and, with `rope`, k_rope [T, 1, r] of this step's tokens in place.

    Inputs: pool, c, k_rope if `rope`, query_start, context_len, block_table. Result: the pool (the
    same memory). With `rotary` > 0, cos and sin follow and the first `rotary` elements of k_rope
    are rotated on the way (see `Rotary`).
    """

    first_phase = Phase.QUANTIZED
    in_place = (0,)

    rope: bool = False
    rotary: int = 0
    interleaved: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        pool, c, *rest = inputs
        count = 5 + self.rope + 2 * (self.rotary > 0)
        require(len(inputs) == count, f"{self}: {len(inputs)} inputs")
        latent, rope = c.shape[-1], rest[0].shape[-1] if self.rope else 0
        assert isinstance(latent, int)
        assert isinstance(rope, int)
        width = latent_width(pool.dtype, latent, rope)
        require(c.rank == 2 and pool.shape[1:] == (CACHE_BLOCK, width), f"{c} into {pool}")
        return (pool,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        pool, c, *rest = inputs
        k_rope = rest.pop(0) if self.rope else None
        query_start, context_len, block_table, *tables = rest
        if k_rope is not None and self.rotary:
            k_rope = Rotary(self.rotary, self.interleaved).reference(k_rope, *tables)
        kind = DType.I8 if pool.dtype == torch.int8 else DType.F32
        stored = encode_latents(c, None if k_rope is None else k_rope[:, 0], kind).to(pool.dtype)
        pool = pool.clone()
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            position = torch.arange(end - (b - a), end)
            block = block_table[s, position // CACHE_BLOCK].long()
            pool[block, position % CACHE_BLOCK] = stored[a:b]
        return pool


@dataclass(frozen=True)
class PagedLatentAttention(Op):
    """Attention of every sequence's query tokens over its cached latents.

    Inputs: q f32[T, H, R], q_rope [T, H, r] if `rope`, pool, query_start, context_len,
    block_table; sinks [H] if `sinks`; a choice i32[T, topk] if `selected`; cos and sin if `rotary`
    > 0: then the first `rotary` elements of every q_rope are rotated on the way. Result
    f32[T, H, R]. Attributes as for `LatentAttention` and `Rotary`.

    Backends may round queries and the softmax's weights to the precision of the pool.
    """

    first_phase = Phase.QUANTIZED
    mixes_tokens = True

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    rope: bool = False
    rotary: int = 0
    interleaved: bool = False
    selected: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, *rest = inputs
        count = 5 + self.rope + self.sinks + self.selected + 2 * (self.rotary > 0)
        require(len(inputs) == count, f"{self}: {len(inputs)} inputs")
        rope = rest.pop(0).shape[-1] if self.rope else 0
        latent = q.shape[-1]
        assert isinstance(latent, int)
        assert isinstance(rope, int)
        width = latent_width(rest[0].dtype, latent, rope)
        require(q.rank == 3 and rest[0].shape[-1] == width, f"{q} over pool {rest[0]}")
        return (q.with_dtype(DType.F32),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, *rest = inputs
        q_rope = rest.pop(0) if self.rope else None
        pool, query_start, context_len, block_table, *rest = rest
        if q_rope is not None and self.rotary:
            q_rope = Rotary(self.rotary, self.interleaved).reference(q_rope, *rest[-2:])
        coded = pool.dtype == torch.int8
        y = torch.full_like(q, float("nan"))
        queries = rotated_queries(q, q_rope, DType.I8 if coded else DType.F32)
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            first = end - (b - a)
            # Blocks that the window has left may be freed already (table entry -1).
            oldest = max(0, first - self.window + 1) if self.window else 0
            position = torch.arange(oldest, end)
            block = block_table[s, position // CACHE_BLOCK].long()
            stored = pool[block, position % CACHE_BLOCK]
            keys, values = decode_latents(stored, q.shape[-1])
            given = [rest[0]] if self.sinks else []
            given += [rest[int(self.sinks)][a:b]] if self.selected else []
            summed = attend_latents(self, queries[a:b], keys, values, first, given, oldest)
            y[a:b] = turned_back(summed, q.shape[-1]) if coded else summed
        return y
