"""The kernel at the start of a step, against loops over sequences."""

from __future__ import annotations

import pytest
import torch
from interpreted_kernels import interpreted

POISON = -77777


def segments(classes: tuple[int, ...], context: int) -> list[int]:
    """The first positions of the segments that begin before `context`."""
    *_, segment, levels = classes
    starts, start, count = [], 0, 0
    while start < context:
        starts.append(start)
        start += segment << min(count // 16, levels)
        count += 1
    return starts


def items(classes: tuple[int, ...], queries: int, context: int) -> int:
    window, tile, short, *_ = classes
    tiles = -(-queries // tile)
    if queries > short or not queries:
        return tiles
    first = max(0, context - queries - window + 1) if window else 0
    starts = segments(classes, context)
    ends = [*starts[1:], context]
    return tiles * sum(end > first for end in ends)


@pytest.mark.parametrize(
    ("sequences", "spare", "empty"),
    [
        ([(1, 1)], 0, 0),
        ([(200, 200), (65, 1), (64, 8), (3000, 4), (63, 9)], 5, 3),
        ([(70, 7)] * 13, 0, 1),
    ],
)
def test_step_metadata(sequences, spare, empty):
    classes = ((0, 16, 8, 64, 2), (100, 5, 8, 16, 0), (33, 3, 1, 32, 1))
    queries = [queries for _, queries in sequences] + [0] * empty
    contexts = [context for context, _ in sequences] + [0] * empty
    starts = [0, *torch.tensor(queries).cumsum(0).tolist()]
    tokens, count = starts[-1] + spare, len(contexts)
    generator = torch.Generator().manual_seed(tokens)
    sampled = torch.randint(0, 1000, (7,), generator=generator, dtype=torch.int32)
    ids = torch.randint(-7, 1000, (tokens,), generator=generator, dtype=torch.int32)
    out = torch.full((3, tokens + 3), POISON, dtype=torch.int32)
    stride = count + 4
    work = torch.full((len(classes), stride), POISON, dtype=torch.int32)
    interpreted("step_metadata").step_metadata[(len(classes) + -(-tokens // 8),)](
        ids, sampled, torch.tensor(starts, dtype=torch.int32),
        torch.tensor(contexts, dtype=torch.int32), out[0], out[1], out[2], work, tokens, count,
        CLASSES=tuple(x for c in classes for x in c), WORK_STRIDE=stride,
        STEPS=count.bit_length(), BLOCK=8, PORTABLE=True,
    )  # fmt: skip
    want = [int(i) if i >= 0 else int(sampled[-1 - i]) for i in ids]
    assert out[0, :tokens].tolist() == want
    owners = [s for s, n in enumerate(queries) for _ in range(n)]
    positions = [p for n, c in zip(queries, contexts, strict=True) for p in range(c - n, c)]
    assert out[1, :tokens].tolist() == positions + [0] * spare
    assert out[2, :tokens].tolist() == owners + [count] * spare
    assert (out[:, tokens:] == POISON).all()
    for row, each in zip(work, classes, strict=True):
        counts = [items(each, n, c) for n, c in zip(queries, contexts, strict=True)]
        assert row[: count + 1].tolist() == [0, *torch.tensor(counts).cumsum(0).tolist()]
        assert (row[count + 1 :] == POISON).all()
