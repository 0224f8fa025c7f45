"""Rotary embedding, attention, the paged cache, and the rows that logits are wanted for.

Heads are `[T, H, D]`. `Attention` is one sequence from its first token (phases up to
QUANTIZED); lowering turns it into `CacheWrite` and `PagedAttention` on a block table.

A cache pool is `[P, 64, H_kv, width]`: P blocks of 64 tokens, elements as `cache_codes.py`
describes them; how a backend lays it out in memory is its own affair. Query token j of
sequence s stands at the absolute position `context_len[s] - query_len[s] + j`, which
lives in block `block_table[s, position // 64]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from ..phase import Phase
from ..types import Dim, DType, R, TensorType, bind_dim
from .base import Op, require
from .cache_codes import decode, encode_keys, encode_values, pool_widths, rotate

Given = TypeVar("Given")


class HasSlopes(Protocol):
    """Ops of attention, as far as they take numbers for each head."""

    @property
    def sinks(self) -> bool: ...
    @property
    def slopes(self) -> bool: ...


CACHE_BLOCK = 64
"""Tokens per cache block."""


@dataclass(frozen=True)
class Rotary(Op):
    """Rotate the first `dim` elements of every head by the angles of its token.

    x [..., T, H, D]; cos, sin [..., T, dim/2]. Halves (x1 = x[:dim/2], x2 = x[dim/2:dim])
    or, where `interleaved`, even and odd elements are the pairs:
    y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin (RoFormer, arXiv 2104.09864).
    """

    dim: int
    interleaved: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, cos, sin = inputs
        require(cos == sin and cos.shape[-1] == self.dim // 2, f"{self}: tables {cos}, {sin}")
        require(x.rank >= 3 and cos.shape[-2] == x.shape[-3], f"{self} of {x} with {cos}")
        return (x,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, cos, sin = inputs
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        head, rest = x[..., : self.dim], x[..., self.dim :]
        if self.interleaved:
            x1, x2 = head[..., 0::2], head[..., 1::2]
        else:
            x1, x2 = head.chunk(2, -1)
        y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
        y = torch.stack((y1, y2), -1).flatten(-2) if self.interleaved else torch.cat((y1, y2), -1)
        return torch.cat((y, rest), -1)


@dataclass(frozen=True)
class Attention(Op):
    """Causal attention of one whole sequence.

    q [..., T, H, D], k [..., T, H_kv, D], v [..., T, H_kv, Dv] → [..., T, H, Dv]; with
    `sinks` another input [H]: a logit per head that takes part in the softmax's sum
    only. `window` w > 0 lets a token see itself and the w - 1 before it. `softcap`
    c > 0 maps scores to c * tanh(score / c). With `slopes` a last input [H]:
    slope * (key - query position) is added to the scores after that (ALiBi, arXiv 2108.12409).
    """

    last_phase = Phase.QUANTIZED
    mixes_tokens = True

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    slopes: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, k, v = inputs[:3]
        return (TensorType(DType.F32, self.result_shape(q, k, v, inputs[3:])),)

    def result_shape(self, q: TensorType, k: TensorType, v: TensorType, rest: tuple) -> tuple:
        require(q.rank == k.rank == v.rank >= 3, f"attention of {q}, {k}, {v}")
        require(q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2], f"{q}, {k}, {v}")
        heads, kv_heads = q.shape[-2], k.shape[-2]
        assert isinstance(heads, int)
        assert isinstance(kv_heads, int)
        require(heads % kv_heads == 0, f"{heads} query heads for {kv_heads} key heads")
        require(len(rest) == self.sinks + self.slopes, f"{self}: {len(rest)} extra inputs")
        require(all(t.shape == (heads,) for t in rest), f"{self}: {rest} for {heads} heads")
        return (*q.shape[:-1], v.shape[-1])

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.reshape(x.shape[-3:]) for x in inputs[:3])  # leading dimensions are 1
        lead = inputs[0].shape[:-3]
        y = attend(self, q, k, v, 0, inputs[3:])
        return y.reshape(*lead, *y.shape)


@dataclass(frozen=True)
class CausalMask(Op):
    """What spelled-out attention adds to its scores: 0 where visible, else the least f32.

    `shape` is [..., T, T]; `window` as for `Attention`. Only legal until `raise_attention`.
    """

    shape: tuple[Dim, ...]
    window: int = 0

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        require(not inputs, "causal_mask takes no inputs")
        return (TensorType(DType.F32, self.shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        shape = [bind_dim(d, {}) for d in self.shape]
        mask = additive_mask(torch.arange(shape[-2]), torch.arange(shape[-1]), self.window)
        return mask.expand(shape)


def additive_mask(i: torch.Tensor, j: torch.Tensor, window: int) -> torch.Tensor:
    """f32 [len(i), len(j)] for queries at positions i and keys at j: 0 where visible."""
    least = torch.finfo(torch.float32).min
    return torch.where(visible(i.unsqueeze(1), j, window), 0.0, least)


def visible(i: torch.Tensor, j: torch.Tensor, window: int) -> torch.Tensor:
    """Whether a query at position i sees a key at j, for positions that broadcast."""
    return (j <= i) & (j > i - window) if window else j <= i


def heads_operands(op: HasSlopes, given: Sequence[Given]) -> tuple[Given | None, Given | None]:
    """(sinks, slopes) of what an attention is given after its fixed operands."""
    sinks = given[0] if op.sinks else None
    slopes = given[int(op.sinks)] if op.slopes else None
    return sinks, slopes


def attend(
    op: Attention | PagedAttention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    first: int,
    by_head: Sequence[torch.Tensor],
    first_key: int = 0,
) -> torch.Tensor:
    """Attention of q [Q, H, D] at positions `first…` over k, v [L, H_kv, D] at `first_key…`.

    `by_head`: sinks and slopes [H], those that `op` has.
    """
    sinks, slopes = heads_operands(op, by_head)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * op.scale
    if op.softcap:
        scores = op.softcap * torch.tanh(scores / op.softcap)
    i = torch.arange(first, first + q.shape[0]).unsqueeze(1)
    j = torch.arange(first_key, first_key + k.shape[0])
    if slopes is not None:
        scores = scores + slopes.view(-1, 1, 1) * (j - i)
    scores = scores.masked_fill(~visible(i, j, op.window), float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(-1, 1, 1).expand(-1, q.shape[0], 1)), -1)
    p = torch.softmax(scores, -1)[..., : k.shape[0]]
    return torch.einsum("hqk,khd->qhd", p, v)


@dataclass(frozen=True)
class CacheWrite(Op):
    """Store k [T, H_kv, D] and v [T, H_kv, Dv] of this step's tokens in the pools, in place.

    Inputs: k, v, key pool, value pool, query_start, context_len, block_table. Results:
    the two pools (the same memory). With `rotary` > 0, cos and sin follow and the first
    `rotary` elements of every key head are rotated on the way (see `Rotary`).
    """

    first_phase = Phase.QUANTIZED
    in_place = (2, 3)

    rotary: int = 0
    interleaved: bool = False

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        k, v, key_pool, value_pool, *_ = inputs
        require(len(inputs) == (9 if self.rotary else 7), f"{self}: {len(inputs)} inputs")
        require(key_pool.dtype == value_pool.dtype, f"pools {key_pool}, {value_pool}")
        sizes = k.shape[-1], v.shape[-1]
        assert all(isinstance(size, int) for size in sizes)
        widths = pool_widths(key_pool.dtype, *sizes)  # type: ignore[arg-type]
        require(key_pool.shape[2:] == (k.shape[1], widths[0]), f"{k} into pool {key_pool}")
        require(value_pool.shape[2:] == (v.shape[1], widths[1]), f"{v} into pool {value_pool}")
        return key_pool, value_pool

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        k, v, key_pool, value_pool, query_start, context_len, block_table, *tables = inputs
        if self.rotary:
            k = Rotary(self.rotary, self.interleaved).reference(k, *tables)
        cache = DType.I8 if key_pool.dtype == torch.int8 else DType.F32
        k, v = encode_keys(k, cache), encode_values(v, cache)
        key_pool, value_pool = key_pool.clone(), value_pool.clone()
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            position = torch.arange(end - (b - a), end)
            block = block_table[s, position // CACHE_BLOCK].long()
            key_pool[block, position % CACHE_BLOCK] = k[a:b].to(key_pool.dtype)
            value_pool[block, position % CACHE_BLOCK] = v[a:b].to(value_pool.dtype)
        return key_pool, value_pool


@dataclass(frozen=True)
class PagedAttention(Op):
    """Attention of every sequence's query tokens over its cached keys and values.

    Inputs: q [T, H, D], key pool, value pool, query_start, context_len, block_table; sinks
    [H] if `sinks`; slopes [H] if `slopes`; cos and sin if `rotary` > 0: then the first `rotary`
    elements of every query head are rotated on the way. Result [T, H, Dv]. Attributes as for
    `Attention` and `Rotary`.

    Backends may round queries and the softmax's weights to the precision of the pools.
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
        q, key_pool, value_pool = inputs[:3]
        count = 6 + self.sinks + self.slopes + 2 * (self.rotary > 0)
        require(len(inputs) == count, f"{self}: {len(inputs)} inputs")
        key_dim, value_dim = q.shape[-1], value_pool.shape[-1]
        assert isinstance(key_dim, int)
        assert isinstance(value_dim, int)
        widths = pool_widths(key_pool.dtype, key_dim, 0)
        require(key_pool.shape[-1] == widths[0], f"{q} over pool {key_pool}")
        return (TensorType(DType.F32, (*q.shape[:-1], value_dim - widths[1])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, key_pool, value_pool, query_start, context_len, block_table = inputs[:6]
        if self.rotary:
            q = Rotary(self.rotary, self.interleaved).reference(q, *inputs[-2:])
        extra = 0
        if key_pool.dtype == torch.int8:
            q, extra = rotate(q), pool_widths(DType.I8, 0, 0)[1]
        y = torch.full((*q.shape[:-1], value_pool.shape[-1] - extra), float("nan"))
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            first = end - (b - a)
            # Blocks that the window has left may be freed already (table entry -1).
            oldest = max(0, first - self.window + 1) if self.window else 0
            position = torch.arange(oldest, end)
            block = block_table[s, position // CACHE_BLOCK].long()
            k = decode(key_pool[block, position % CACHE_BLOCK])
            v = decode(value_pool[block, position % CACHE_BLOCK])
            y[a:b] = attend(self, q[a:b], k, v, first, inputs[6:], oldest)
        return y


def query_spans(query_start: torch.Tensor, context_len: torch.Tensor) -> list[tuple[int, int, int]]:
    """(first row, row after the last, context length) of each sequence that has query tokens."""
    starts = query_start.tolist()
    spans = zip(starts[:-1], starts[1:], context_len.tolist(), strict=True)
    return [(a, b, end) for a, b, end in spans]


@dataclass(frozen=True)
class LogitsRows(Op):
    """The rows of x [T, N] that logits are wanted for: rows i32[R] → [R, N]."""

    first_phase = Phase.QUANTIZED

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        x, _ = inputs
        return (x.with_shape((R, *x.shape[1:])),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0][inputs[1].long()]
