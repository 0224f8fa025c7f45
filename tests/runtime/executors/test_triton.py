"""The executor of launch plans: the toy's plan on a GPU in host memory that is late in all."""

import os
from typing import Any
from weakref import ref

import msgspec
import numpy as np
import pytest
from fake_gpu import FakeGpu
from llmc.artifact.choice import Choice
from llmc.base.errors import LlmcError
from llmc.runtime.engine.engine import Engine, Request
from llmc.runtime.executors.triton_graphs import sequence_buckets
from toy_plan import (
    BLOCKS_EACH,
    best,
    inputs_for,
    prompts_of,
    toy_executor,
    toy_kernels,
)
from toy_program import Toy

SEEDS = (None, 0, 1, 2)
"""Of delays; None: as late as can be."""


@pytest.mark.parametrize("seed", SEEDS)
def test_the_engine_on_it_computes_what_the_numpy_toy_computes(seed: int | None) -> None:
    program = toy_executor(seed=seed)
    engine = Engine(program)
    prompts = [[n * 7 % 97 for n in range(length)] for length in (3, 60, 150, 1)]
    requests = [Request(tuple(prompt), 20) for prompt in prompts]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    assert [r.output for r in requests] == [Toy.greedy(prompt, 20) for prompt in prompts]
    engine.close()


def test_logits_come_when_asked_for_and_argmax_as_a_few_ints() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    tokens = prompts_of(40)
    outputs = program.step(inputs_for(tokens, [40], rows=[39, 0, 7]))
    assert outputs.argmax == [best(tokens[0][: n + 1]) for n in (39, 0, 7)]
    assert gpu.done.nbytes["download"] == 12
    expected = np.stack([Toy.logits(tokens[0][: n + 1]) for n in (39, 0, 7)])
    np.testing.assert_array_equal(outputs.logits, expected)
    outputs.logits[0, 0] = 5.0  # drawing may change rows
    tokens[0].append(3)
    assert program.step(inputs_for(tokens, [1], rows=[])).logits.shape == (0, 97)
    tokens[0] += [4, 5, 6]
    outputs = program.step(inputs_for(tokens, [3], rows=[0, 1, 2, 2, 2]))  # more rows than before
    assert outputs.logits.shape == (5, 97)
    np.testing.assert_array_equal(outputs.logits[4], Toy.logits(tokens[0]))
    program.close()


@pytest.mark.parametrize("lengths", [(5,), (9, 1, 17), (3, 3, 3, 3, 3)])
@pytest.mark.parametrize("query", [1, 2, 3])
def test_small_steps_are_padded_and_run_as_one_graph_each(lengths: tuple, query: int) -> None:
    """3 sequences run in the graph of 4, 5 in that of 6 (the limit). Kernels of the toy complain
    about padding that isn't as agreed."""
    gpu = FakeGpu(toy_kernels(), seed=query)
    program = toy_executor(gpu)
    tokens = prompts_of(*lengths)
    for s, alone in enumerate(tokens):
        only = inputs_for([alone], [len(alone)])
        blocks = [[s * BLOCKS_EACH]]
        program.step(msgspec.structs.replace(only, block_tables=(blocks, blocks)))
    for repeat in range(3):
        for sequence in tokens:
            sequence += [(repeat * 31 + len(sequence)) % 97 for _ in range(query)]
        before = gpu.done.calls.copy()
        outputs = program.step(inputs_for(tokens, [query] * len(tokens)))
        assert outputs.argmax == [best(sequence) for sequence in tokens]
        begun = gpu.done.calls - before
        assert begun["replay"] == 1
        assert begun["launch"] == (0 if repeat else begun["launch"])
    program.close()


def test_a_step_that_is_too_large_for_a_graph_is_launched_in_the_form_that_fits() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    tokens = prompts_of(20, 25)
    outputs = program.step(inputs_for(tokens, [20, 25]))
    assert outputs.argmax == [best(sequence) for sequence in tokens]
    assert "replay" not in gpu.done.calls
    assert [name for name, _ in gpu.launches] == [
        "look_up", "write_cache", "hash_rows", "find_best", "count_large",
    ]  # fmt: skip
    assert dict(gpu.launches)["look_up"] == (3, 1, 1)  # 45 tokens, 16 each
    gpu.launches.clear()
    tokens = prompts_of(5)
    program.step(inputs_for(tokens, [5], rows=[]))
    # 5 tokens of one sequence: a graph of 5 rows, in the small form
    assert dict(gpu.launches)["find_few"] == (5, 1, 1)
    assert "count_large" not in dict(gpu.launches)
    gpu.launches.clear()
    tokens = prompts_of(30)
    program.step(
        inputs_for(tokens, [30], rows=[])
    )  # no rows: what would have no blocks is left out
    assert [name for name, _ in gpu.launches] == ["look_up", "write_cache", "count_large"]
    program.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_takes_tokens_from_the_one_before_that_the_host_has_not_seen(
    seed: int | None,
) -> None:
    """Sequences change places between steps, and one's token is known to the host."""
    program = toy_executor(seed=seed)
    tokens = prompts_of(7, 11, 2, 19)
    submitted = program.submit(inputs_for(tokens, [7, 11, 2, 19]))
    orders = ([2, 0, 3, 1], [3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 3, 2], [0, 1, 2, 3])
    rows = {s: s for s in range(4)}
    for number, order in enumerate(orders):
        known = number % 4
        expected = [best(sequence) for sequence in tokens]
        for sequence, token in zip(tokens, expected, strict=True):
            sequence.append(token)
        inputs = inputs_for(tokens, [1] * 4)
        ids = [tokens[s][-1] if s == known else -1 - rows[s] for s in order]
        tables = tuple([table[s] for s in order] for table in inputs.block_tables)
        positions = [inputs.positions[s] for s in order]
        inputs = msgspec.structs.replace(
            inputs,
            token_ids=ids,
            positions=positions,
            context_len=[p + 1 for p in positions],
            block_tables=tables,
        )
        following = program.submit(inputs)
        answers = submitted.outputs().argmax
        assert [answers[rows[s]] for s in range(4)] == expected
        submitted, rows = following, {s: place for place, s in enumerate(order)}
    assert submitted.outputs().argmax == [best(tokens[s]) for s in orders[-1]]
    program.close()


def test_outputs_of_a_step_while_the_next_one_is_under_way() -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    tokens = prompts_of(4)
    first = program.submit(inputs_for(tokens, [4]))
    assert not gpu.launches  # it works by itself, and late
    tokens[0].append(best(tokens[0]))
    second = program.submit(inputs_for(tokens, [1]))
    outputs = first.outputs()
    assert outputs.argmax == [tokens[0][-1]]
    assert outputs is first.outputs()
    with pytest.raises(LlmcError, match="after the next one"):
        _ = outputs.logits
    np.testing.assert_array_equal(second.outputs().logits[0], Toy.logits(tokens[0]))
    tokens[0].append(5)
    program.submit(inputs_for(tokens, [1]))
    third = program.submit(inputs_for(tokens, [1]))  # the two before need not be asked for
    assert program.submit(inputs_for(tokens, [1])).outputs().argmax == [best(tokens[0])]
    assert third.outputs().argmax == [best(tokens[0])]
    program.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_block_is_copied_in_the_order_of_steps(seed: int | None) -> None:
    program = toy_executor(seed=seed)
    tokens = prompts_of(10)
    program.submit(inputs_for(tokens, [10]))
    for group in (0, 1):
        program.copy_block(group, 0, 7)
        program.copy_block(group, 7, 7)
    other = [tokens[0][::-1]]
    program.submit(inputs_for(other, [10]))  # writes over block 0
    tokens[0].append(42)
    inputs = msgspec.structs.replace(inputs_for(tokens, [1]), block_tables=([[7]], [[7]]))
    assert program.step(inputs).argmax == [best(tokens[0])]
    program.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"token_ids": [97]},
        {"token_ids": [-1]},  # there was no step before
        {"token_ids": [], "positions": []},
        {"positions": [1]},
        {"query_start": [0, 2]},
        {"context_len": [321], "positions": [320]},
        {"logits_rows": [1]},
        {"logits_rows": [0] * 7},
        {"block_tables": ([[40]], [[0]])},
        {"block_tables": ([[0]], [[-1]])},
    ],
    ids=str,
)
def test_inputs_that_kernels_must_not_see_stop_at_the_border(bad: dict[str, Any]) -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    inputs = msgspec.structs.replace(inputs_for([[5]], [1]), **bad)
    with pytest.raises(LlmcError, match="E0100"):
        program.submit(inputs)
    assert "launch" not in gpu.done.calls
    program.step(inputs_for([[5]], [1]))
    program.submit(inputs_for([[5, -1]], [1]))
    with pytest.raises(LlmcError, match="E0100"):
        program.submit(inputs_for([[5, -2]], [1]))  # of the row after the last one
    program.close()


@pytest.mark.parametrize("drawn", [False, True])
def test_steps_that_nobody_asks_about_run_all_the_same(drawn: bool) -> None:
    """Nothing that they read is written over while they wait for the GPU."""
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    tokens = prompts_of(4)
    held, chosen = program.submit(inputs_for(tokens, [4])), 50
    for number in range(9):
        choices = [Choice(row=0, temperature=1.0, uniform=number / 10)] if drawn and number else []
        tokens[0].append(-1 if number else 50)
        program.submit(inputs_for(tokens, [1]), choices)
        tokens[0][-1] = chosen
        chosen = int(choices[0].uniform * 97) if choices else best(tokens[0])
    tokens[0].append(chosen)
    assert program.step(inputs_for(tokens, [1])).argmax == [best(tokens[0])]
    assert held.outputs().argmax == [best(tokens[0][:4])]
    closed = ref(program)
    del program, held
    assert closed() is None  # nobody keeps it, so it is closed at once
    assert gpu.closed


@pytest.mark.parametrize(
    "call",
    ["upload", "record", "wait", "download", "launch", "begin_capture", "end_capture", "replay"],
)
def test_a_gpu_that_fails_in_a_step_is_told_about_and_closed(call: str) -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    gpu.broken.add(call)
    with pytest.raises(LlmcError, match="E0722") as raised:
        program.step(inputs_for([[5]], [1]))
    assert "\n" not in raised.value.message
    gpu.broken.clear()
    assert program.step(inputs_for([[5]], [1])).argmax == [best([5])]  # no recording is left open
    outputs = program.step(inputs_for([[5]], [1]))
    gpu.broken = {"synchronize", "copy"}
    with pytest.raises(LlmcError, match="E0722"):
        program.copy_block(0, 0, 1)
    with pytest.raises(LlmcError, match="E0722"):
        _ = outputs.logits
    program.close()
    assert gpu.closed


def test_close_twice_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(toy_kernels())
    program = toy_executor(gpu)
    step = program.submit(inputs_for([[5]], [1]))
    program.close()
    program.close()
    assert gpu.done.calls["close"] == 1
    for call in (step.outputs, lambda: program.step(inputs_for([[5]], [1]))):
        with pytest.raises(LlmcError, match="closed"):
            call()
    other = FakeGpu(toy_kernels())
    forked = toy_executor(other)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    forked.close()  # the child has no GPU to close
    assert not other.closed


def test_buckets_rise_to_the_limit() -> None:
    assert sequence_buckets(1) == [1]
    assert sequence_buckets(6) == [1, 2, 4, 6]
    assert sequence_buckets(16) == [1, 2, 4, 8, 16]
    assert sequence_buckets(100) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100]
