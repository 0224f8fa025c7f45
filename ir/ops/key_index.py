"""Attention to chosen keys: an index scores all earlier tokens, and the best are attended to.

The index has small queries and one small key a token. Token t gives key j the score

    Σ_h weights[t, h] · relu(scale · q[t, h] · k[j])

and attention sees the `topk` keys with the highest scores among those that it would see anyway
(arXiv 2512.02556). Up to `topk` tokens of context that is all of them. Of equal scores the earlier
key is taken. A choice is i32[T, topk]: positions, ascending, then -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..phase import Phase
from ..types import DType, Sym, TensorType
from .attention import CACHE_BLOCK, Attention, attend, query_spans
from .base import Op, require


@dataclass(frozen=True)
class TopTokens(Op):
    """Positions of the `k` highest scores of each token: f32[..., T, T] → i64[..., T, k].

    As models spell it; only legal until `raise_key_index`.
    """

    mixes_tokens = True
    last_phase = Phase.TRACED

    k: int

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        tokens = x.rank >= 2 and x.shape[-1] == x.shape[-2] and isinstance(x.shape[-1], Sym)
        require(tokens, f"{self} of {x}")
        return (TensorType(DType.I64, (*x.shape[:-1], self.k)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        found = torch.sort(x, dim=-1, descending=True, stable=True).indices[..., : self.k]
        return torch.nn.functional.pad(found, (0, self.k - found.shape[-1]), value=-1)


@dataclass(frozen=True)
class SelectedAttention(Attention):
    """`Attention` to the chosen keys: a last input more, the choice [..., T, topk]."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        require(inputs[-1].shape[:-1] == inputs[0].shape[:-2], f"{self}: choice {inputs[-1]}")
        return super().infer(*inputs[:-1])

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.reshape(x.shape[-3:]) for x in inputs[:3])
        allowed = chosen(inputs[-1].reshape(inputs[-1].shape[-2:]), 0, k.shape[0])
        rows = [
            attend(self, q[t : t + 1], k[keys], v[keys], t, inputs[3:-1])
            for t, keys in enumerate(allowed)
        ]
        return torch.cat(rows).reshape(*inputs[0].shape[:-1], v.shape[-1])


def chosen(choice: torch.Tensor, first: int, count: int) -> list[torch.Tensor]:
    """For each row of a choice [Q, topk] of queries at `first…` the keys below `count` it sees."""
    found = []
    for row, keys in enumerate(choice.long()):
        seen = (keys >= 0) & (keys <= first + row) & (keys < count)
        found.append(keys[seen].sort().values)
    return found


@dataclass(frozen=True)
class KeyIndex(Op):
    """The choice of one whole sequence: q f32[T, H, D], k [T, D], weights [T, H] → i32[T, topk]."""

    mixes_tokens = True
    last_phase = Phase.QUANTIZED

    topk: int
    scale: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, k, weights = inputs
        require(q.rank == 3 and k.shape == (q.shape[0], q.shape[2]), f"{self} of {q} over {k}")
        require(weights.shape == q.shape[:2], f"{self}: weights {weights} for {q}")
        return (TensorType(DType.I32, (q.shape[0], self.topk)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, k, weights = inputs
        return choose(self, q, k, weights, 0)


def choose(
    op: KeyIndex | PagedKeyIndex,
    q: torch.Tensor,
    k: torch.Tensor,
    weights: torch.Tensor,
    first: int,
) -> torch.Tensor:
    """The choice i32[Q, topk] of queries [Q, H, D] at `first…` among keys [L, D]."""
    products = torch.relu(torch.einsum("qhd,kd->qhk", q, k) * op.scale)
    scores = torch.einsum("qh,qhk->qk", weights, products)
    choice = torch.full((q.shape[0], op.topk), -1, dtype=torch.int32)
    for row, values in enumerate(scores):
        seen = values[: first + row + 1]
        best = torch.sort(seen, descending=True, stable=True).indices[: op.topk].sort().values
        choice[row, : len(best)] = best.int()
    return choice


@dataclass(frozen=True)
class KeyIndexWrite(Op):
    """Store k [T, D] of this step's tokens in the pool [P, 64, D], in place.

    Inputs: pool, k, query_start, context_len, block_table. Result: the pool.
    """

    first_phase = Phase.QUANTIZED
    in_place = (0,)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        pool, k, *_ = inputs
        require(pool.shape[1:] == (CACHE_BLOCK, *k.shape[1:]), f"{k} into {pool}")
        require(pool.dtype.is_float, f"{self}: no pool is {pool}")
        return (pool,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        pool, k, query_start, context_len, block_table = inputs
        pool = pool.clone()
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            position = torch.arange(end - (b - a), end)
            block = block_table[s, position // CACHE_BLOCK].long()
            pool[block, position % CACHE_BLOCK] = k[a:b].to(pool.dtype)
        return pool


@dataclass(frozen=True)
class PagedKeyIndex(Op):
    """The choices of every sequence's query tokens among its cached keys.

    Inputs: q [T, H, D], weights [T, H], pool, query_start, context_len, block_table. Result
    i32[T, topk]. Attributes as for `KeyIndex`.
    """

    first_phase = Phase.QUANTIZED
    mixes_tokens = True

    topk: int
    scale: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, weights, pool, *_ = inputs
        require(weights.shape == q.shape[:2], f"{self}: weights {weights} for {q}")
        require(pool.shape[-1] == q.shape[-1], f"{q} over pool {pool}")
        return (TensorType(DType.I32, (q.shape[0], self.topk)),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, weights, pool, query_start, context_len, block_table = inputs
        choice = torch.full((q.shape[0], self.topk), -1, dtype=torch.int32)
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            position = torch.arange(end)
            block = block_table[s, position // CACHE_BLOCK].long()
            k = pool[block, position % CACHE_BLOCK].float()
            choice[a:b] = choose(self, q[a:b], k, weights[a:b], end - (b - a))
        return choice
