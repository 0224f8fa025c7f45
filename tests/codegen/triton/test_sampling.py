"""Argmax and drawing against the reference in numpy, in Triton's interpreter, and as cubins.

Drawn numbers are put into the middle of the weight of a token, so that sums that round otherwise
(about 1e-6 of the whole) find the same one; thresholds likewise.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from copy import copy

import numpy as np
import pytest
import torch
from compiled_kernels import SMS, spilled_bytes
from interpreted_kernels import interpreted
from llmc.artifact.choice import NOTHING, Choice, Edits
from llmc.artifact.device_choice import RECORD, RESULT, TOP, pack, packed_bytes, read_results
from llmc.codegen.triton.kernels import argmax as compiled_argmax
from llmc.codegen.triton.kernels import sampling as compiled
from llmc.runtime.engine.sampling.numpy_sampling import change, draw_row, token_of

INF = float("inf")
POISON = 0x55


def argmax(logits: torch.Tensor, vocab: int, block: int, pieces: int) -> list[int]:
    rows = len(logits)
    piece = -(-vocab // (pieces * block)) * block
    value = torch.full((rows, pieces), float("nan"))
    place, token = (torch.full(s, -99, dtype=torch.int32) for s in ((rows, pieces), (rows,)))
    module = interpreted("argmax")
    module.argmax_pieces[(rows, pieces)](
        logits, value, place, logits.stride(0), vocab, piece, block, pieces, PORTABLE=True
    )
    width = 1 << (pieces - 1).bit_length()
    module.argmax_rows[(rows,)](value, place, token, pieces, width, PORTABLE=True)
    return token.tolist()


@pytest.mark.parametrize(("vocab", "block", "pieces"), [(5, 8, 1), (37, 8, 2), (40, 8, 5)])
def test_argmax_is_the_lowest_id_of_the_largest(vocab: int, block: int, pieces: int) -> None:
    generator = np.random.default_rng(vocab)
    # few different values: there are many equals
    logits = generator.integers(-3, 3, (6, vocab)).astype(np.float32)
    logits[1] = -np.inf
    logits[2, : vocab // 2] = np.nan
    logits[3, vocab - 1] = np.inf
    logits[4] = np.nan
    padded = torch.full((6, vocab + 3), 1e30)
    padded[:, :vocab] = torch.from_numpy(logits)
    want = [token_of(row.copy(), Choice()) for row in logits]
    assert argmax(padded, vocab, block, pieces) == want
    assert want[1] == want[4] == NOTHING


def draw(
    logits: np.ndarray,
    choices: Sequence[Choice],
    block: int = 64,
    near: int = 16,
    capacity: int = 32,
    records: int = 0,
) -> None:
    """Fills the results of copies of rows `logits` f32 [rows, vocab], by the kernels."""
    rows, vocab = logits.shape
    records = records or len(choices)
    words = bytearray(packed_bytes(choices, records))
    pack(choices, memoryview(words), records)
    packed = torch.frombuffer(words, dtype=torch.int32)
    results = torch.full((records * RESULT.size // 4,), POISON, dtype=torch.int32)
    ids = torch.full((records, capacity), -99, dtype=torch.int32)
    values = torch.full((records, capacity), float("nan"))
    x = torch.full((rows, vocab + 1), 1e30)
    x[:, :vocab] = torch.from_numpy(logits)
    module = interpreted("sampling")
    constants = {"STRIDE": vocab + 1, "VOCAB": vocab, "BLOCK": block, "PORTABLE": True}
    some = constants | {"TOP": TOP, "CAPACITY": capacity}
    module.report_rows[(records,)](x, packed, results, ids, values, **some)
    module.change_rows[(records, -(-vocab // block))](x, packed, PIECE=block, **constants)
    tokens = torch.full((rows,), POISON, dtype=torch.int32)
    module.draw_rows[(records,)](x, packed, results, tokens, ids, values, NEAR=near, **some)
    read_results(choices, memoryview(results.numpy().tobytes()))
    assert (x[:, vocab] == 1e30).all()
    by_rows = {choice.row: max(choice.token, 0) for choice in choices}
    assert tokens.tolist() == [by_rows.get(r, POISON) for r in range(rows)]
    assert (results[len(choices) * RESULT.size // 4 :] == POISON).all()


def check(logits: np.ndarray, choices: Sequence[Choice], **tiles: int) -> None:
    """Both choose the same, and report the same log-probabilities (roundings of f32: 1e-5)."""
    want = [copy(choice) for choice in choices]
    for choice in want:
        draw_row(logits[choice.row].copy(), choice)
    draw(logits, choices, **tiles)
    for got, one in zip(choices, want, strict=True):
        assert got.token == one.token
        if one.top < 0 or one.token == NOTHING:
            continue
        assert got.logprob == pytest.approx(one.logprob, abs=1e-5)
        assert [i for i, _ in got.alternatives] == [i for i, _ in one.alternatives]
        for (_, a), (_, b) in zip(got.alternatives, one.alternatives, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def in_the_middle(logits: np.ndarray, choice: Choice, token: int) -> None:
    """Sets `uniform` so that `token` is drawn if it is kept, with room on both sides: found by
    bisection on what the reference draws."""

    def first(least: int) -> float:
        low, high = 0.0, 1.0  # the smallest number that draws `least` or an id behind it
        for _ in range(40):
            choice.uniform = (low + high) / 2
            x = logits[choice.row].copy()
            change(x, choice)
            low, high = (low, choice.uniform) if token_of(x, choice) >= least else (
                choice.uniform, high
            )  # fmt: skip
        return high

    choice.uniform = (first(token) + first(token + 1)) / 2


def row(vocab: int, seed: int, spread: float = 2.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, spread, (1, vocab))
    return values.astype(np.float32)


FILTERS: list[dict[str, float]] = [
    {},
    {"top_k": 5},
    {"top_k": 100},
    {"top_p": 0.7},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"typical_p": 0.6},
    {"top_k": 8, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9},
    {"top_k": 1},
    {"top_p": 0.0},
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("vocab", "block"), [(50, 64), (150, 64)])
def test_drawn_tokens_are_the_references(filters: dict[str, float], vocab: int, block: int) -> None:
    logits = row(vocab, seed=vocab)
    choice = Choice(temperature=0.8)
    for name, value in filters.items():
        setattr(choice, name, value)
    likely = int(np.argsort(-logits[0])[2])
    in_the_middle(logits, choice, likely)
    check(logits, [choice], block=block)
    if not filters:
        assert choice.token == likely


def test_few_of_the_largest_and_the_whole_row_give_the_same() -> None:
    """Whatever is looked at first (`near`, `capacity`) is only faster."""
    logits = row(100, seed=9)
    choices = [Choice(temperature=1.1, top_k=4), Choice(temperature=1.1, top_p=0.8)]
    for choice in choices:
        in_the_middle(logits, choice, int(np.argsort(-logits[0])[1]))
        alone = copy(choice)
        draw(logits, [alone], near=1, capacity=4)  # too few: the row
        check(logits, [choice], near=32, capacity=64)
        assert alone.token == choice.token


def test_equals_are_kept_together() -> None:
    logits = np.zeros((1, 40), np.float32)
    logits[0, [3, 17, 30]] = 2.0
    for filters in ({"top_k": 1}, {"top_p": 0.01}):
        tokens = []
        for uniform in (0.1, 0.5, 0.9):
            choice = Choice(temperature=1.0, uniform=uniform)
            for name, value in filters.items():
                setattr(choice, name, value)
            draw(logits, [choice])
            tokens.append(choice.token)
        assert tokens == [3, 17, 30]


def edits(changes: dict[int, tuple[float, float, float]]) -> Edits:
    result = Edits()
    for token, (bias, penalty, minus) in changes.items():
        at = result.at(token)
        result.bias[at], result.penalty[at], result.minus[at] = bias, penalty, minus
    return result


def allowed(vocab: int, ids: Sequence[int]) -> memoryview:
    bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
    bits[list(ids)] = 1
    return memoryview(np.packbits(bits, bitorder="little").tobytes())


def test_edits_masks_and_forbidden_ids() -> None:
    vocab = 70
    logits = row(vocab, seed=2)
    best = [int(i) for i in np.argsort(-logits[0])]
    changed = edits({best[0]: (-50.0, 1.0, 0.0), best[40]: (20.0, 1.3, 0.5), 3: (0.0, 2.0, 1.0)})
    choices = [
        Choice(edits=changed, top=3),
        Choice(allowed=allowed(vocab, best[5:20]), top=0),
        Choice(forbidden=best[:7]),
        Choice(
            edits=changed,
            allowed=allowed(vocab, best[:41]),
            forbidden=[best[40], best[1]],
            top=2,
        ),
        Choice(allowed=allowed(vocab, []), top=2),
    ]
    for choice in choices:
        check(logits, [choice])
    assert [c.token for c in choices] == [best[40], best[5], best[7], best[2], NOTHING]
    assert choices[0].edits is changed
    assert array("f", changed.bias)[0] == -50.0


def test_targets_and_rows_without_a_choice() -> None:
    """Records behind the last choice do nothing; a choice's place is not its row's."""
    logits = np.concatenate([row(50, 1), row(50, 2), row(50, 3)])
    logits[2, [4, 9]] = -np.inf
    choices = [Choice(row=2, target=11, top=5), Choice(row=0, top=1), Choice(row=1)]
    check(logits, choices, records=5)
    assert choices[0].token == 11


@pytest.mark.parametrize("top", [0, 1, 7, 32])
@pytest.mark.parametrize(("vocab", "capacity"), [(20, 64), (90, 64), (90, 32)])
def test_alternatives_are_the_references(top: int, vocab: int, capacity: int) -> None:
    logits = np.round(row(vocab, seed=vocab + top))  # many equals
    logits[0, vocab // 3] = -np.inf
    logits[0, 5] = -0.0
    check(logits, [Choice(top=top)], capacity=capacity)


def test_what_cannot_be_drawn() -> None:
    logits = np.full((4, 30), -np.inf, np.float32)
    logits[1] = np.nan
    logits[2, [7, 9]] = np.inf
    logits[3, 20], logits[3, 3] = -3.0, np.nan
    choices = [Choice(row=r, temperature=1.0, uniform=0.5) for r in range(4)]
    check(logits, choices)
    assert [c.token for c in choices] == [NOTHING, NOTHING, 7, 20]


def test_the_ends_of_the_weight() -> None:
    """0 draws the first token, and the largest number below 1 the last."""
    logits = np.zeros((1, 100), np.float32)
    for uniform, token in ((0.0, 0), (1 - 2**-53, 99)):
        choice = Choice(temperature=1.0, uniform=uniform)
        draw(logits, [choice])
        assert choice.token == token


def test_a_choice_does_not_depend_on_the_others() -> None:
    logits = np.concatenate([row(80, seed) for seed in range(3)])
    together = [
        Choice(row=r, temperature=0.9, top_p=0.9, uniform=0.3 * r + 0.1, top=4) for r in range(3)
    ]
    alone = [copy(choice) for choice in together]
    draw(logits, together, records=4)
    for choice in alone:
        draw(logits, [choice])
    assert alone == together


@pytest.mark.parametrize("seed", range(4))
def test_random_choices(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vocab = int(generator.integers(30, 130))
    logits = row(vocab, seed, spread=float(generator.uniform(0.5, 4)))
    choice = Choice(
        temperature=float(generator.uniform(0.3, 1.5)),
        top_k=int(generator.choice([0, 3, 20])),
        top_p=float(generator.choice([1.0, 0.83])),
        min_p=float(generator.choice([0.0, 0.013])),
        edits=edits({int(i): (0.3, 1.2, 0.1) for i in generator.choice(vocab, 20, replace=False)}),
        forbidden=[int(generator.integers(vocab))],
        top=2,
    )
    in_the_middle(logits, choice, int(np.argsort(-logits[0])[int(generator.integers(4))]))
    check(logits, [choice])


def test_kernels_know_the_record() -> None:
    """A record whose words are their own numbers: kernels read them where `pack` puts them."""
    assert RECORD.size == 4 * compiled.RECORD.value
    assert RESULT.size == 4 * (compiled.TOP_IDS.value + 2 * TOP)
    names = (
        "ROW", "TARGET", "RATE", "TOP_K", "TOP_P", "MIN_P", "TYPICAL_P", "UNIFORM", "EDITS",
        "EDIT_COUNT", "ALLOWED", "FORBIDDEN", "FORBIDDEN_COUNT", "TOP_COUNT",
    )  # fmt: skip
    data = memoryview(bytearray(4 * 200))
    choice = Choice(
        row=1, target=2, temperature=0.5, top_k=4, top_p=0.125, min_p=0.25, typical_p=0.375,
        uniform=0.5, edits=edits({7: (1.0, 2.0, 3.0)}), allowed=allowed(40, [1]),
        forbidden=[5, 6], top=9,
    )  # fmt: skip
    pack([choice], data, 2)
    words, numbers = data.cast("i"), data.cast("f")
    got = [
        (numbers if name in ("RATE", "TOP_P", "MIN_P", "TYPICAL_P", "UNIFORM") else words)[
            getattr(compiled, name).value
        ]
        for name in names
    ]
    assert got == [1, 2, 2.0, 4, 0.125, 0.25, 0.375, 0.5, 32, 1, 37, 39, 2, 9]
    assert [words[32], *numbers[33:36], words[37], *words[39:41]] == [7, 1.0, 2.0, 3.0, 2, 5, 6]
    assert words[16] == -1


@pytest.mark.parametrize("sm", SMS)
def test_cubins_spill_nothing(sm: int) -> None:
    common = {"STRIDE": 151936, "VOCAB": 151936, "PORTABLE": sm < 90}
    pieces = common | {"PIECE": 8192, "BLOCK": 1024, "PIECES": 19}
    types = {"logits_ptr": "*fp32", "value_ptr": "*fp32", "id_ptr": "*i32", "token_ptr": "*i32"}
    assert spilled_bytes(compiled_argmax.argmax_pieces, types, pieces, sm, 4) == 0
    rows = {"PIECES": 19, "BLOCK": 32, "PORTABLE": sm < 90}
    assert spilled_bytes(compiled_argmax.argmax_rows, types, rows, sm, 1) == 0
    types |= {"choices_ptr": "*i32", "results_ptr": "*i32", "ids_ptr": "*i32"}
    types["tokens_ptr"] = "*i32"
    types["values_ptr"] = "*fp32"
    some = common | {"TOP": TOP, "CAPACITY": 4096, "BLOCK": 4096}
    change = common | {"PIECE": 8192, "BLOCK": 1024}
    assert spilled_bytes(compiled.report_rows, types, some, sm, 16) == 0
    assert spilled_bytes(compiled.change_rows, types, change, sm, 4) == 0
    if sm == 90:  # takes seconds; registers are the same ones everywhere
        assert spilled_bytes(compiled.draw_rows, types, some | {"NEAR": 1024}, sm, 16) == 0
