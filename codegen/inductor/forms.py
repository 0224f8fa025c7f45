"""Ops whose reference torch.export can't follow, or would follow to slow code: other ways to
compute the same.

The references of all other ops go into the exported module as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...ir.ops import GroupedLinear, Op, Rotary, RouteTokens, SlotAttention, SlotWrite
from ...ir.types import Env
from ..emitting import Emitters

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Run:
    """What a form may know of the run besides its operands.

    `query`: tokens that each sequence brings; `extent`: no slot is read from here on; `env`: the
    sizes of the graph's symbols.
    """

    query: int
    extent: int
    env: Env


FORMS: Emitters[Run, Tensors, torch.Tensor | tuple[torch.Tensor, ...]] = Emitters(__name__, "form*")
"""What is here, and in further modules of that name."""
emits = FORMS.emits


def evaluate(op: Op, run: Run, operands: Tensors) -> Tensors:
    """The results of `op`."""
    form = FORMS.find(op)
    result = op.bind(run.env).reference(*operands) if form is None else form(run, operands, op)
    return result if isinstance(result, tuple) else (result,)


@emits(SlotWrite)
def slot_write(run: Run, operands: Tensors, op: SlotWrite) -> tuple[torch.Tensor, ...]:
    """Writes into the caches that were given: the compiler then makes it a store in place."""
    k, v, key_cache, value_cache, start, *tables = operands
    if op.rotary:
        k = Rotary(op.rotary, op.interleaved).reference(k, *tables)
    position = start.long().unsqueeze(1) + torch.arange(run.query, device=start.device)
    slot = torch.arange(start.shape[0], device=start.device).unsqueeze(1)
    for new, cache in ((k, key_cache), (v, value_cache)):
        rows = new.reshape(start.shape[0], run.query, *new.shape[1:])
        cache.transpose(1, 2).index_put_((slot, position), rows.to(cache.dtype))
    return key_cache, value_cache


@emits(SlotAttention)
def slot_attention(run: Run, operands: Tensors, op: SlotAttention) -> torch.Tensor:
    """Reads what slots hold, not all that they have room for."""
    q, key_cache, value_cache, *rest = operands
    return op.reference(q, key_cache[:, :, : run.extent], value_cache[:, :, : run.extent], *rest)


@emits(RouteTokens)
def route_tokens(run: Run, operands: Tensors, op: RouteTokens) -> tuple[torch.Tensor, ...]:
    """Counts by comparison; the reference's `bincount` has a shape that depends on values."""
    (index,) = operands
    flat = index.flatten().long()
    order = torch.argsort(flat, stable=True)
    slot = torch.empty_like(order).scatter(0, order, torch.arange(flat.shape[0]))
    counts = (flat.unsqueeze(1) == torch.arange(op.experts)).sum(0)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    return (order // index.shape[1]).int(), offsets.int(), slot.view(index.shape).int()


@emits(GroupedLinear)
def grouped_linear(run: Run, operands: Tensors, op: GroupedLinear) -> torch.Tensor:
    """One grouped product instead of a loop over experts whose bounds are values.

    Rows of weights and inputs must be multiples of 16 bytes, so they are padded where they aren't.
    """
    (x, *_), weight, bias, row_index, offsets = op.split_groups(tuple(operands))
    if row_index is not None:
        x = x[row_index.long()]
    n, k = weight.shape[-2:]
    weight = F.pad(weight.to(x.dtype), (0, -k % 4, 0, -n % 4))
    y = F.grouped_mm(F.pad(x, (0, -k % 4)), weight.transpose(-1, -2), offs=offsets[1:])[..., :n]
    if bias is not None:
        rows = torch.arange(x.shape[0]).unsqueeze(1)
        y = y + bias[(offsets[1:] <= rows).sum(1)]
    return op.epilogue(y, None)
