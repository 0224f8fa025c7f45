"""Attention over slots: the cache of runtimes that don't page.

A *slot* is one contiguous piece of cache that one sequence fills from its first token on. In a run
of S slots every sequence brings the same number Q of query tokens, so T = S * Q and row t belongs
to sequence t // Q; one that has fewer is padded behind its own. `start[s]` counts the tokens that
the slot held before: query token j of sequence s stands at position start[s] + j and sees no
later one. What padding leaves in the cache lies behind all that may be read, and is overwritten
before it is reached.

A cache is `[S, H_kv, L, D]` in f32, bf16 or f16: each head's keys lie together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..phase import Phase
from ..types import DType, Sym, TensorType
from .attention import Rotary, heads_operands, visible
from .base import Op, require

LENGTH = Sym("L")
"""Tokens that a slot has room for."""


@dataclass(frozen=True)
class SlotWrite(Op):
    """Store k [T, H_kv, D] and v [T, H_kv, Dv] of this run's tokens in their slots, in place.

    Inputs: k, v, key cache, value cache, start i32[S]. Results: the two caches (the same memory).
    With `rotary` > 0, cos and sin follow and the first `rotary` elements of every key head are
    rotated on the way (see `Rotary`).
    """

    first_phase = Phase.QUANTIZED
    in_place = (2, 3)

    rotary: int = 0
    interleaved: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        k, v, key_cache, value_cache, _ = inputs[:5]
        require(len(inputs) == (7 if self.rotary else 5), f"{self}: {len(inputs)} inputs")
        for new, cache in ((k, key_cache), (v, value_cache)):
            require(cache.dtype.is_float and cache.rank == 4, f"{self}: no cache is {cache}")
            require(cache.shape[1::2] == new.shape[1:], f"{new} into {cache}")
        return key_cache, value_cache

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        k, v, key_cache, value_cache, start, *tables = inputs
        if self.rotary:
            k = Rotary(self.rotary, self.interleaved).reference(k, *tables)
        return _stored(k, key_cache, start), _stored(v, value_cache, start)


def _stored(new: torch.Tensor, cache: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The cache with rows of `new` [T, H, D] at the positions from `start` on."""
    sequences = cache.shape[0]
    rows = new.unflatten(0, (sequences, -1)).transpose(1, 2)  # [S, H, Q, D]
    positions = _positions(start, rows.shape[2])
    index = positions[:, None, :, None].expand_as(rows)
    return cache.scatter(2, index, rows.to(cache.dtype))


def _positions(start: torch.Tensor, query: int) -> torch.Tensor:
    """Positions i64 [S, Q] of each sequence's query tokens."""
    return start.long().unsqueeze(1) + torch.arange(query, device=start.device)


@dataclass(frozen=True)
class SlotAttention(Op):
    """Attention of every sequence's query tokens over its slot.

    Inputs: q [T, H, D], key cache, value cache, start i32[S]; sinks [H] if `sinks`; slopes [H] if
    `slopes`; cos and sin if `rotary` > 0: then the first `rotary` elements of every query head are
    rotated on the way. Result f32[T, H, Dv]. Attributes as for `Attention` and `Rotary`.

    Backends may round queries and the softmax's weights to the precision of the cache.
    """

    first_phase = Phase.QUANTIZED
    mixes_tokens = True

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    slopes: bool = False
    rotary: int = 0
    interleaved: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, key_cache, value_cache, _ = inputs[:4]
        count = 4 + self.sinks + self.slopes + 2 * (self.rotary > 0)
        require(len(inputs) == count, f"{self}: {len(inputs)} inputs")
        require(q.rank == 3 and key_cache.shape[-1] == q.shape[-1], f"{q} over {key_cache}")
        heads, kv_heads = q.shape[1], key_cache.shape[1]
        assert isinstance(heads, int)
        assert isinstance(kv_heads, int)
        require(heads % kv_heads == 0, f"{heads} query heads for {kv_heads} key heads")
        return (TensorType(DType.F32, (*q.shape[:-1], value_cache.shape[-1])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, key_cache, value_cache, start = inputs[:4]
        if self.rotary:
            q = Rotary(self.rotary, self.interleaved).reference(q, *inputs[-2:])
        sequences, kv_heads, length, _ = key_cache.shape
        q = q.unflatten(0, (sequences, -1)).transpose(1, 2)  # [S, H, Q, D]
        query = q.shape[2]
        # Heads that share keys stand side by side: [S, H_kv, H / H_kv * Q, D].
        shared = q.unflatten(1, (kv_heads, -1)).flatten(2, 3)
        scores = shared.float() @ key_cache.float().transpose(-1, -2) * self.scale
        scores = scores.unflatten(2, (-1, query))
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        i = _positions(start, query).unsqueeze(-1)
        j = torch.arange(length, device=start.device)
        sinks, slopes = heads_operands(self, inputs[4:])
        if slopes is not None:
            steep = slopes.float().view(1, kv_heads, -1, 1, 1)
            scores = scores + steep * (j - i)[:, None, None]
        hidden = ~visible(i, j, self.window)[:, None, None]  # [S, 1, 1, Q, L]
        p = _softmax(scores.masked_fill(hidden, float("-inf")), sinks)
        # What no query sees may be anything, NaN included.
        unread = (j > i[:, -1]).view(sequences, 1, length, 1)
        values = value_cache.float().masked_fill(unread, 0.0)
        y = (p.flatten(2, 3) @ values).unflatten(2, (-1, query)).flatten(1, 2)
        return y.transpose(1, 2).flatten(0, 1)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the last dimension of [S, H_kv, G, Q, L]; sinks take their share."""
    if sinks is None:
        return torch.softmax(scores, -1)
    kv_heads, group = scores.shape[1:3]
    sinks = sinks.float().view(1, kv_heads, group, 1, 1)
    scores = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), -1)
    return torch.softmax(scores, -1)[..., :-1]
