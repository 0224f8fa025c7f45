"""What a step may be given, against the rules as they read: position by position."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from llmc.artifact.program import StepInputs, check_inputs
from llmc.base.errors import LlmcError

SIZE, BLOCKS, VOCAB = 4, (12, 9), 50
PROGRAM: Any = SimpleNamespace(
    limits=SimpleNamespace(
        max_tokens=8, max_sequences=3, max_context=18, max_logits_rows=4, block_size=SIZE
    ),
    cache_groups=(SimpleNamespace(name="all", window=0), SimpleNamespace(name="near", window=5)),
    cache_blocks=BLOCKS,
    vocab_size=VOCAB,
)
VALUES = (-3, -2, -1, 0, 1, 2, 8, 9, 12, 18, 19, 49, 50, 2**31)


def random_step(rng: random.Random) -> StepInputs:
    """One that is right. Blocks behind the window are freed, and tables may be too long."""
    news = [rng.choice((1, 1, rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
    while sum(news) > 8:
        news.pop()
    lengths = [rng.randint(new, 18) for new in news]
    starts = [sum(news[:n]) for n in range(len(news) + 1)]
    tables = []
    for group, blocks in enumerate(BLOCKS):
        rows = []
        for new, length in zip(news, lengths, strict=True):
            row = [rng.randrange(blocks) for _ in range(rng.randint(-(-length // SIZE), 5))]
            if group:
                for block in range(max(0, length - new - 4) // SIZE):
                    row[block] = -1
            rows.append(row)
        tables.append(rows)
    return StepInputs(
        token_ids=[rng.randrange(-2, VOCAB) for _ in range(sum(news))],
        positions=[p for n, end in zip(news, lengths, strict=True) for p in range(end - n, end)],
        query_start=starts,
        context_len=lengths,
        logits_rows=[rng.randrange(sum(news)) for _ in range(rng.randint(0, 4))],
        block_tables=tables,
    )


def damage(step: StepInputs, rng: random.Random) -> None:
    """One number changed, or one more or less."""
    arrays = [step.token_ids, step.positions, step.query_start, step.context_len, step.logits_rows]
    rows: list[Any] = [*arrays, *(row for table in step.block_tables for row in table)]
    found = rng.choice([row for row in rows if row])
    place = rng.randrange(len(found))
    match rng.randrange(4):
        case 0:
            found.append(rng.choice(VALUES))
        case 1:
            del found[place]
        case _:
            found[place] = rng.choice((*VALUES, found[place] + 1, found[place] - 1))


def is_right(step: StepInputs) -> bool:
    """The rules. Two rows came before."""
    tokens, starts, lengths = len(step.token_ids), step.query_start, step.context_len
    if not (1 <= tokens <= 8 and 1 <= len(lengths) <= 3 and len(step.logits_rows) <= 4):
        return False
    if len(starts) != len(lengths) + 1 or (starts[0], starts[-1]) != (0, tokens):
        return False
    expected = []
    for s, length in enumerate(lengths):
        new = starts[s + 1] - starts[s]
        if not 1 <= new <= length <= 18:
            return False
        expected += [length - new + i for i in range(new)]
        for group, table, blocks in zip(
            PROGRAM.cache_groups, step.block_tables, BLOCKS, strict=True
        ):
            row = table[s]
            if not length <= SIZE * len(row) < 18 + SIZE or max(row) >= blocks:
                return False
            seen = group.window - 1 if group.window else length
            if any(row[p // SIZE] < 0 for p in range(max(0, length - new - seen), length)):
                return False
    return (
        step.positions == expected
        and all(-2 <= token < VOCAB for token in step.token_ids)
        and all(0 <= row < tokens for row in step.logits_rows)
    )


def test_exactly_what_breaks_a_rule_is_refused() -> None:
    rng, refused = random.Random(3), 0
    for turn in range(3000):
        step = random_step(rng)
        if turn % 3:
            damage(step, rng)
        if is_right(step):
            check_inputs(step, PROGRAM, 2)
            continue
        refused += 1
        with pytest.raises(LlmcError, match="step inputs"):
            check_inputs(step, PROGRAM, 2)
    assert 1000 < refused < 2000
