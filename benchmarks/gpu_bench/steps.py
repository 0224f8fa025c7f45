"""Inputs of steps, for sequences that have their blocks side by side in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmc.artifact.program import Program, StepInputs

from .shapes import Case


@dataclass(frozen=True)
class Part:
    """What one sequence brings: tokens from position `start` on. `place`: its number in the cache,
    where each has `room` tokens. `every`: logits of all its tokens, not of the last one alone."""

    place: int
    token_ids: Sequence[int]
    start: int
    every: bool = False


def blocks_for(sequences: int, room: int, block: int) -> int:
    """Blocks of a cache group for so many sequences of `room` tokens."""
    return sequences * -(-room // block)


def step_inputs(program: Program, parts: Sequence[Part], room: int) -> StepInputs:
    """A step of these sequences, in this order."""
    block = program.limits.block_size
    each = -(-room // block)
    tokens, positions, starts, lengths, rows, table = [], [], [0], [], [], []
    for part in parts:
        count, first = len(part.token_ids), len(tokens)
        end = part.start + count
        tokens += part.token_ids
        positions += range(part.start, end)
        starts.append(len(tokens))
        lengths.append(end)
        rows += range(first if part.every else len(tokens) - 1, len(tokens))
        table.append([part.place * each + i for i in range(-(-end // block))])
    return StepInputs(
        token_ids=tokens,
        positions=positions,
        query_start=starts,
        context_len=lengths,
        logits_rows=rows,
        block_tables=tuple(table for _ in program.cache_groups),
    )


def case_inputs(program: Program, case: Case, room: int) -> StepInputs:
    """A step of a case; its tokens are any."""
    start = case.context - case.query
    parts = [
        Part(
            place,
            [(place * 977 + i * 131 + 7) % program.vocab_size for i in range(case.query)],
            start,
            every=not case.prefill,
        )
        for place in range(case.sequences)
    ]
    return step_inputs(program, parts, room)
