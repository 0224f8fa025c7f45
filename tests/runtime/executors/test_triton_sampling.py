"""Tokens drawn on a GPU in host memory, by the toy's plan."""

import msgspec
import numpy as np
import pytest
from fake_gpu import FakeGpu
from llmc.artifact.choice import Choice, Edits
from llmc.base.errors import LlmcError
from toy_plan import (
    best,
    inputs_for,
    prompts_of,
    toy_executor,
    toy_kernels,
    toy_plan,
)
from toy_program import Toy

SEEDS = (None, 0, 1, 2)
"""Of delays; None: as late as can be."""


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_are_drawn_with_a_step_and_the_next_one_takes_them(seed: int | None) -> None:
    program = toy_executor(seed=seed)
    tokens = prompts_of(7, 11, 2)
    submitted = program.submit(inputs_for(tokens, [7, 11, 2]))
    before: list[Choice] = []
    for number in range(6):
        expected = [best(sequence) for sequence in tokens]
        for choice in before:
            expected[choice.row] = int(choice.uniform * 97)
        for sequence, token in zip(tokens, expected, strict=True):
            sequence.append(token)
        inputs = msgspec.structs.replace(inputs_for(tokens, [1] * 3), token_ids=[-1, -2, -3])
        # rows out of order, some without a choice, and no choices at all
        rows = ([2, 0], [1], [], [1, 2, 0], [0], [2])[number]
        choices = [Choice(row=r, temperature=1.0, uniform=(r + number) / 11, top=3) for r in rows]
        assert all(program.draws(choice) for choice in choices)
        following = program.submit(inputs, choices)
        outputs = submitted.outputs()
        assert [c.token for c in before] == [expected[c.row] for c in before]
        argmax = [best(sequence[:-1]) for sequence in tokens]
        assert outputs.argmax == argmax
        for choice in before:
            logits = Toy.logits(tokens[choice.row][:-1])
            order = np.argsort(-logits, kind="stable")[:3].tolist()
            assert choice.alternatives == [(t, logits[t]) for t in order]
            assert choice.logprob == logits[choice.token]
        submitted, before = following, choices
    program.close()


def test_rows_of_the_last_step_are_drawn_from_when_asked() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    tokens = prompts_of(9, 5)
    outputs = program.step(inputs_for(tokens, [9, 5]))
    assert outputs.draw is not None
    edits = Edits()
    for token in range(40, 61):
        edits.bias[edits.at(token)] = float(token)
    favoured = Choice(row=1, edits=edits, forbidden=[60, 59])
    many = [
        Choice(row=0, temperature=1.0, uniform=n / 20, target=n * (n % 2) - 1 + n % 2)
        for n in range(9)
    ]
    before = len(gpu.launches)
    outputs.draw([*many[:4], favoured, *many[4:]])
    assert favoured.token == 58
    assert [c.token for c in many] == [n if n % 2 else int(n / 20 * 97) for n in range(9)]
    counts = [grid[0] for _, grid in gpu.launches[before:]]
    assert counts == [4, 4, 2]  # 64 bytes each and 428 of lists, of 744
    step = program.submit(inputs_for([[*tokens[0], 1]], [1]))
    with pytest.raises(LlmcError, match="after the next one"):
        outputs.draw(many)
    assert step.outputs().argmax == [best([*tokens[0], 1])]
    program.close()


def test_choices_that_it_can_not_draw_do_not_come_with_a_step() -> None:
    program = toy_executor()
    assert program.draws(Choice(temperature=0.7))
    assert program.draws(Choice(forbidden=list(range(15))))
    too_many = Choice(forbidden=list(range(16)))  # 6 rows with as many don't fit
    assert not program.draws(too_many)
    with pytest.raises(LlmcError, match="E0100"):
        program.submit(inputs_for([[5]], [1]), [too_many])
    program.close()
    plan = toy_plan()
    kept = {name: region for name, region in plan.kept.items() if name != "tokens"}
    for changes, draws in (({"sampling": []}, False), ({"kept": kept}, True)):
        program = toy_executor(plan=toy_plan(**changes))
        assert not program.draws(Choice(temperature=0.7))
        assert (program.step(inputs_for([[5]], [1])).draw is not None) == draws
        program.close()
