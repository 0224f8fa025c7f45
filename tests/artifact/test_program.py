"""What a step gives is fetched when it is read, and once; what it is given is checked."""

import random
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llmc.artifact.manifest import CacheGroup, Limits
from llmc.artifact.program import InputCheck, StepInputs, StepOutputs
from llmc.base.errors import LlmcError

LOGITS = np.array([[0.5, 3.0, -1.0], [2.0, 1.0, 2.5]], np.float32)


def test_logits_are_fetched_when_they_are_first_read_and_once():
    fetched = []

    def fetch() -> np.ndarray:
        fetched.append(LOGITS.copy())
        return fetched[-1]

    outputs = StepOutputs(fetch, [1, 2])
    assert outputs.argmax == [1, 2]
    assert not fetched
    outputs.logits[0, 0] = 9
    assert outputs.logits[0, 0] == 9
    assert len(fetched) == 1
    assert outputs.argmax == [1, 2]


def test_an_argmax_that_the_program_does_not_give_is_that_of_its_logits():
    outputs = StepOutputs.of(LOGITS.copy())
    assert outputs.argmax == [1, 2]
    outputs.logits[:] = 0  # as drawing may
    assert outputs.argmax == [1, 2]
    assert outputs.draw is None


@pytest.mark.parametrize("vocab", [1, 3])
def test_a_step_without_rows_has_no_argmax(vocab):
    assert StepOutputs.of(np.empty((0, vocab), np.float32)).argmax == []


SIZE, MOST, BLOCKS, WINDOW = 4, 30, 20, 9
LIMITS = Limits(
    max_tokens=12, max_sequences=5, max_context=MOST, max_logits_rows=6, block_size=SIZE
)
GROUPS = tuple(
    CacheGroup(
        name=name, kind="full", layers=1, kv_heads=1, key_dim=4, value_dim=4, dtype="f32",
        window=window, block_size=SIZE, bytes_per_block=64,
    )
    for name, window in (("full", 0), ("sliding", WINDOW))
)  # fmt: skip
PROGRAM: Any = SimpleNamespace(
    limits=LIMITS, cache_groups=GROUPS, cache_blocks=(BLOCKS, BLOCKS), vocab_size=50
)


def random_inputs(rng: random.Random, each_one: bool) -> StepInputs:
    """Right ones; blocks that have left the window are freed as far as may be."""
    count = rng.randint(1, 5)
    new = [1 if each_one else rng.choice([1, 1, 2, 3]) for _ in range(count)]
    if sum(new) > 12:
        return random_inputs(rng, each_one)
    lengths = [rng.randint(n, MOST) for n in new]
    full = [[rng.randrange(BLOCKS) for _ in range(-(-n // SIZE))] for n in lengths]
    sliding = []
    for row, n, length in zip(full, new, lengths, strict=True):
        freed = rng.choice([0, max(0, length - n - (WINDOW - 1)) // SIZE])
        sliding.append([-1] * freed + row[freed:])
    starts = [sum(new[:s]) for s in range(count + 1)]
    return StepInputs(
        token_ids=[rng.randrange(-3, 50) for _ in range(sum(new))],
        positions=[p for n, end in zip(new, lengths, strict=True) for p in range(end - n, end)],
        query_start=starts,
        context_len=lengths,
        logits_rows=[end - 1 for end in starts[1:]],
        block_tables=[full, sliding],
    )


def is_inside(inputs: StepInputs) -> bool:
    """Whether kernels stay inside of their arrays and pools, position by position."""
    starts, lengths = inputs.query_start, inputs.context_len
    if len(starts) != len(lengths) + 1 or starts[0] != 0 or starts[-1] != len(inputs.token_ids):
        return False
    if len(inputs.positions) != len(inputs.token_ids):
        return False
    for s, length in enumerate(lengths):
        own = list(range(starts[s], starts[s + 1]))
        if not own or not len(own) <= length <= MOST:
            return False
        for t in own:
            position = length - (starts[s + 1] - t)
            if inputs.positions[t] != position:
                return False
            for group, table in zip(GROUPS, inputs.block_tables, strict=True):
                seen = range(max(0, position - group.window + 1) if group.window else 0, position)
                for p in [*seen, position]:
                    if not (len(table) > s and len(table[s]) > p // SIZE):
                        return False
                    if not 0 <= table[s][p // SIZE] < BLOCKS:
                        return False
    return all(-3 <= token < 50 for token in inputs.token_ids) and all(
        0 <= row < len(inputs.token_ids) for row in inputs.logits_rows
    )


def spoil(rng: random.Random, inputs: StepInputs) -> None:
    """Changes one number, or takes one away; the lists may be those of the step before."""
    lists = [inputs.token_ids, inputs.positions, inputs.query_start, inputs.context_len]
    lists += [inputs.logits_rows, *(row for table in inputs.block_tables for row in table)]
    values = rng.choice([one for one in lists if one])
    place = rng.randrange(len(values))
    if rng.random() < 0.2:
        del values[place]
    else:
        values[place] += rng.choice([-50, -20, -4, -1, 1, 4, 20, 50])


def test_what_passes_the_border_stays_inside_whatever_came_before():
    """Step after step through one check, the rows of tables mostly those of the step before."""
    rng, refused = random.Random(5), 0
    check = InputCheck(PROGRAM)
    inputs = random_inputs(rng, True)
    for _ in range(2000):
        if rng.random() < 0.3:
            inputs = random_inputs(rng, rng.random() < 0.7)
        spoilt = rng.random() < 0.4
        given = deepcopy(inputs)
        if spoilt:
            spoil(rng, given)
        problem = None
        try:
            check.check(given, rows_before=3)
        except LlmcError as error:
            problem = error.id
        if problem is not None:
            assert (problem, spoilt) == ("LLMC-E0100", True)
            refused += 1
        else:
            assert is_inside(given)
            for known, table in zip(check.tables, given.block_tables, strict=True):
                assert known.rows == table
    assert 300 < refused < 800


def test_a_row_that_is_changed_in_place_is_looked_at_again():
    rows = [[1, 2], [3, 4]]
    inputs = StepInputs([0, 0], [6, 7], [0, 1, 2], [7, 8], [0, 1], [rows, deepcopy(rows)])
    check = InputCheck(PROGRAM)
    check.check(inputs)
    assert [sorted(table.take_changed()) for table in check.tables] == [[0, 1], [0, 1]]
    rows[1][0] = 5
    check.check(inputs)
    assert [table.take_changed() for table in check.tables] == [[1], []]
    rows[1][0] = BLOCKS
    with pytest.raises(LlmcError, match="no block"):
        check.check(inputs)
    rows[1][0] = -1
    with pytest.raises(LlmcError, match="no block"):
        check.check(inputs)
    rows[1][0] = 5
    check.check(inputs)
    assert check.tables[0].rows == rows
    assert check.tables[0].take_changed() == []
