"""The first kernel of a step: what the others need to know of its tokens and sequences."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .attention_work import items_of


@triton.jit
def step_metadata(
    token_ids_ptr,
    sampled_ptr,
    query_start_ptr,
    context_len_ptr,
    resolved_ptr,
    positions_ptr,
    sequence_of_ptr,
    work_ptr,
    tokens,
    sequences,
    CLASSES: tl.constexpr,
    WORK_STRIDE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PORTABLE: tl.constexpr,
):
    """token_ids i32[T], query_start i32[S+1], context_len i32[S], sampled i32 of the step before.

    A token id -1 - k stands for the token that the step before sampled in its row k. Writes
    resolved i32[T] (ids), positions i32[T] and sequence_of i32[T] (S and position 0 for tokens
    that belong to nobody), and work i32[classes, WORK_STRIDE]: before sequence s, and at S in
    all, how many items attention has for one head of keys. CLASSES lists WINDOW, TILE, SHORT,
    SEGMENT, LEVELS (see `attention_work`) of every class, one behind another; STEPS is at least
    log2(S + 1), rounded up. Grid: classes + ceil(T / BLOCK).
    """
    if not PORTABLE:
        gdc_launch_dependents()
        gdc_wait()
    program = tl.program_id(0)
    COUNT: tl.constexpr = len(CLASSES) // 5
    for i in tl.static_range(COUNT):
        if program == i:
            _count_items(
                query_start_ptr,
                context_len_ptr,
                work_ptr + i * WORK_STRIDE,
                sequences,
                CLASSES[5 * i],
                CLASSES[5 * i + 1],
                CLASSES[5 * i + 2],
                CLASSES[5 * i + 3],
                CLASSES[5 * i + 4],
                BLOCK,
            )
    if program >= COUNT:
        token = (program - COUNT) * BLOCK + tl.arange(0, BLOCK)
        inside = token < tokens
        sequence = _sequence_of(query_start_ptr, token, sequences, STEPS)
        tl.store(sequence_of_ptr + token, sequence, mask=inside)
        owned = inside & (sequence < sequences)
        end = tl.load(query_start_ptr + sequence + 1, mask=owned, other=0)
        context = tl.load(context_len_ptr + sequence, mask=owned, other=0)
        tl.store(positions_ptr + token, tl.where(owned, context - end + token, 0), mask=inside)
        given = tl.load(token_ids_ptr + token, mask=inside, other=0)
        sampled = tl.load(sampled_ptr - 1 - given, mask=given < 0, other=0)
        tl.store(resolved_ptr + token, tl.where(given < 0, sampled, given), mask=inside)


@triton.jit
def _sequence_of(query_start_ptr, token, sequences, STEPS: tl.constexpr):
    """How many sequences end at or before each token."""
    low = token * 0
    high = low + sequences
    for _ in tl.static_range(STEPS):
        searching = low < high
        middle = (low + high) // 2
        end = tl.load(query_start_ptr + middle + 1, mask=searching, other=0)
        ended = searching & (end <= token)
        high = tl.where(searching & (end > token), middle, high)
        low = tl.where(ended, middle + 1, low)
    return low


@triton.jit
def _count_items(
    query_start_ptr,
    context_len_ptr,
    work_ptr,
    sequences,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    SHORT: tl.constexpr,
    SEGMENT: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Prefix sums of the items of all sequences, for one class."""
    before = 0
    tl.store(work_ptr, 0)
    for start in range(0, sequences, BLOCK):
        sequence = start + tl.arange(0, BLOCK)
        inside = sequence < sequences
        first = tl.load(query_start_ptr + sequence, mask=inside, other=0)
        end = tl.load(query_start_ptr + sequence + 1, mask=inside, other=0)
        context = tl.load(context_len_ptr + sequence, mask=inside, other=0)
        items = items_of(end - first, context, WINDOW, TILE, SHORT, SEGMENT, LEVELS)
        tl.store(work_ptr + 1 + sequence, before + tl.cumsum(items, 0), mask=inside)
        before += tl.sum(items, 0)
