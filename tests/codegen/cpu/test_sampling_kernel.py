"""The native drawing of tokens against the reference in numpy, on all levels and odd rows."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest
from kernel_harness import aligned, aligned_copy, build, foreign_levels, pointer, runnable_levels
from llmc.artifact.choice import NOTHING, Choice, Edits
from llmc.runtime.engine.sampling import numpy_sampling as drawing
from llmc.runtime.engine.sampling.request_state import mix, uniform
from llmc.runtime.executors.cpu_sampling import CHOICE, NativeDraw
from msgspec.structs import replace

LEVELS = [*runnable_levels(), *foreign_levels()[:1]]
NATIVE = runnable_levels()[-1]
TOP = 20

# One call carries everything in a few arrays, so that it reaches an emulated library too. The rows
# of all choices follow one another; edits and forbidden ids are shared.
SOURCE = """
#include "sampling.h"
using namespace llmc;
EXPORT int sample(int threads, const int* n, const double* f, void* const* p) {
  const int count = n[0], vocab = n[1], edits = n[2], words = (vocab + 31) / 32;
  llmc_choice* choices = (llmc_choice*)malloc(count * sizeof(llmc_choice));
  for (int i = 0; i < count; ++i) {
    const double* o = f + 6 * i;
    const int* k = n + 4 + 4 * i;
    choices[i] = llmc_choice{sizeof(llmc_choice), k[2], (float*)p[0] + (int64_t)i * vocab,
        p[1] ? (uint32_t*)p[1] + i * words : nullptr, (float)o[0], (float)o[1], (float)o[2],
        (float)o[3], k[0], edits, (int*)p[2], (float*)p[3], (float*)p[3] + edits,
        (float*)p[3] + 2 * edits, (float*)p[4] + i * edits, (int*)p[5], n[3], k[1], o[4],
        (int*)p[6] + 20 * i, (float*)p[7] + 20 * i, -9, 0.0f};
  }
  Choices all{choices, count, vocab};
  run_team(threads, sample_rows, &all);
  for (int i = 0; i < count; ++i) {
    ((int*)p[8])[i] = choices[i].token;
    ((float*)p[9])[i] = choices[i].logprob;
  }
  free(choices);
  return 0;
}
EXPORT int sample_choices(void* choices, int count, int vocab) {
  Choices all{(llmc_choice*)choices, count, vocab};
  run_team(2, sample_rows, &all);
  return 0;
}
EXPORT int choice_size() { return (int)sizeof(llmc_choice); }
"""


def native(level: str, x: np.ndarray, choices: list[Choice], threads: int = 1) -> list[Choice]:
    """Choices with what the kernel found; all must have the edits and forbidden ids of the first,
    and a mask if it has one. x: [count, vocab]."""
    (count, vocab), first = x.shape, choices[0]
    edits = first.edits or Edits()
    shape = [count, vocab, len(edits), len(first.forbidden)]
    ints = np.array(
        [*shape, *(v for c in choices for v in (c.top_k, c.top, c.target, 0))], np.int32
    )
    options = ("temperature", "top_p", "min_p", "typical_p", "uniform")
    reals = np.array([v for c in choices for v in (*(getattr(c, o) for o in options), 0.0)])
    masks = [np.frombuffer(c.allowed, np.uint8) for c in choices if c.allowed is not None]
    logits, ids, logprobs = (
        aligned_copy(x),
        aligned((count, TOP), np.int32),
        aligned((count, TOP), np.float32),
    )
    tokens, chosen = aligned(count, np.int32), aligned(count, np.float32)
    arrays = [
        logits,
        np.concatenate(masks) if masks else None,
        np.array(edits.ids, np.int32),
        np.array([*edits.bias, *edits.penalty, *edits.minus], np.float32),
        aligned(max(1, count * len(edits)), np.float32),
        np.array(first.forbidden, np.int32),
        ids,
        logprobs,
        tokens,
        chosen,
    ]
    pointers = (ctypes.c_void_p * len(arrays))(
        *(pointer(a if a is not None and a.size else None) for a in arrays)
    )
    numbers = np.array(ints, np.int32)
    build(SOURCE, level).sample(threads, pointer(numbers), pointer(reals), pointers)
    return [
        replace(
            choice,
            token=int(tokens[i]),
            logprob=float(chosen[i]),
            alternatives=[
                (int(a), float(b)) for a, b in zip(ids[i], logprobs[i], strict=True) if a >= 0
            ][: max(choice.top, 0)],
        )
        for i, choice in enumerate(choices)
    ]


def acceptable(x: np.ndarray, choice: Choice) -> set[int]:
    """What the reference chooses, also if shares and the random number are changed a little: exp
    and sums are rounded differently, so a token at a limit may fall either way."""
    tokens = set()
    for a in (-1e-5, 0, 1e-5):
        for b in (-3e-6, 0, 3e-6):
            changed = replace(
                choice,
                uniform=min(max(choice.uniform + b, 0), 1 - 1e-9),
                top_p=min(choice.top_p * (1 + a), 1) if choice.top_p < 1 else 1,
                min_p=min(choice.min_p * (1 - a), 1),
                typical_p=min(choice.typical_p * (1 + a), 1) if choice.typical_p < 1 else 1,
            )
            drawing.draw_row(x.copy(), changed)
            tokens.add(changed.token)
    return tokens


def random_row(rng: np.random.Generator, vocab: int) -> np.ndarray:
    x = (rng.normal(0, 1, vocab) * rng.choice([0, 0.01, 1, 3, 10])).astype(np.float32)
    kind = rng.integers(6)
    if kind == 0:
        x = np.round(x)  # ties
    elif kind == 1:
        x[rng.random(vocab) < 0.5] = -np.inf
    elif kind == 2:
        x[:] = -np.inf
        x[rng.integers(vocab)] = -3
    elif kind == 3:
        x[rng.integers(vocab, size=3)] = np.nan
    return x


def random_choice(rng: np.random.Generator) -> Choice:
    return Choice(
        temperature=float(rng.choice([0, 1e-30, 1e-4, 0.1, 0.7, 1, 2.5, 1e4])),
        top_k=int(rng.choice([0, 0, 1, 5, 50, 1000])),
        top_p=float(rng.choice([1, 1, 0.1, 0.5, 0.95])),
        min_p=float(rng.choice([0, 0, 0.05, 0.5, 1])),
        typical_p=float(rng.choice([1, 1, 0.2, 0.9])),
        uniform=float(rng.random()),
        top=int(rng.choice([-1, 0, 3, TOP])),
    )


def check_against_reference(x: np.ndarray, got: Choice, asked: Choice) -> None:
    want = replace(asked)
    drawing.draw_row(x.copy(), want)
    if got.token != want.token:
        assert got.token in acceptable(x, asked), asked
        return
    if asked.top >= 0 and got.token != NOTHING and not np.isnan(x).any():
        assert got.logprob == pytest.approx(want.logprob, rel=1e-5, abs=1e-5)
        assert [i for i, _ in got.alternatives] == [i for i, _ in want.alternatives]
        values = [[v for _, v in c.alternatives] for c in (got, want)]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 300, 4097, 49152])
@pytest.mark.parametrize("level", LEVELS)
def test_tokens_are_those_of_the_reference(level: str, vocab: int):
    rng = np.random.default_rng(vocab)
    count = 40 if vocab <= 4097 else 12
    x = np.stack([random_row(rng, vocab) for _ in range(count)])
    asked = [random_choice(rng) for _ in range(count)]
    for row, got, choice in zip(x, native(level, x, asked), asked, strict=True):
        check_against_reference(row, got, choice)


@pytest.mark.parametrize("level", LEVELS)
def test_edits_masks_and_forbidden_ids(level: str):
    rng = np.random.default_rng(5)
    for vocab in (33, 1000):
        x = rng.normal(0, 2, (30, vocab)).astype(np.float32)
        edits = Edits()
        edits.penalize(rng.integers(vocab, size=9).tolist(), 1.7)
        for token in rng.integers(vocab, size=9).tolist():
            edits.bias[edits.at(token)] = 2.0
            edits.minus[edits.at(token)] = 0.7
        words = -(-vocab // 32)
        asked = [
            replace(
                random_choice(rng),
                edits=edits,
                forbidden=[3, vocab - 1],
                allowed=memoryview(rng.integers(0, 256, 4 * words, np.uint8).tobytes()),
            )
            for _ in range(30)
        ]
        for row, got, choice in zip(x, native(level, x, asked), asked, strict=True):
            check_against_reference(row, got, choice)
            assert got.token not in (3, vocab - 1)


@pytest.mark.parametrize("level", LEVELS)
def test_odd_rows(level: str):
    nan, inf = float("nan"), float("inf")
    rows = np.array([[nan] * 40, [-inf] * 40, [1.0] * 40, [1.0] * 40], np.float32)
    rows[2, 17] = rows[3, 5] = inf
    rows[3, :5] = nan
    for choice in (Choice(), Choice(temperature=1, top_k=3, top_p=0.5, typical_p=0.5, uniform=0.7)):
        got = native(level, rows, [choice] * 4)
        assert [choice.token for choice in got] == [NOTHING, NOTHING, 17, 5]


def test_a_target_is_reported_on_and_nothing_changed():
    x = np.random.default_rng(0).normal(0, 2, (3, 500)).astype(np.float32)
    got = native(NATIVE, x, [Choice(target=7, top=2) for _ in range(3)])
    for row, choice in zip(x, got, strict=True):
        want = Choice(target=7, top=2)
        drawing.draw_row(row, want)
        assert choice.token == 7
        assert choice.logprob == pytest.approx(want.logprob, abs=1e-5)
        assert [i for i, _ in choice.alternatives] == [i for i, _ in want.alternatives]


def test_rows_and_threads_change_nothing():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 2, (13, 3001)).astype(np.float32)
    asked = [replace(random_choice(rng), top=5) for _ in range(13)]
    alone = [native(NATIVE, x[i : i + 1], [choice])[0] for i, choice in enumerate(asked)]
    for threads in (1, 2, 5):
        assert native(NATIVE, x, asked, threads) == alone


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.8}, {"top_k": 40}, {"typical_p": 0.7}, {"min_p": 0.2, "top_p": 0.9}],
)
def test_frequencies_follow_the_probabilities(options: dict[str, Any]):
    """Chi-square below its 99.9 % point; the numbers are always the same."""
    vocab, count, seed = 100, 20_000, mix(11)
    x = np.random.default_rng(2).normal(0, 1, vocab).astype(np.float32)
    choice = Choice(temperature=1.3, **options)
    kept, weights = drawing.candidates(x, x > -np.inf, x.max(), choice)
    expected = np.where(kept, weights, 0) / weights[kept].sum() * count
    asked = [replace(choice, uniform=uniform(seed, i)) for i in range(count)]
    tokens = [c.token for c in native(NATIVE, np.tile(x, (count, 1)), asked, 2)]
    seen = np.bincount(tokens, minlength=vocab)
    assert seen[~kept].sum() == 0
    enough = kept & (expected > 5)
    freedom = enough.sum()
    statistic = ((seen[enough] - expected[enough]) ** 2 / expected[enough]).sum()
    assert statistic < freedom + 3.1 * np.sqrt(2 * freedom) + 5


@cache
def draw_of(vocab: int, rows: int, address: int) -> NativeDraw:
    library = build(SOURCE, NATIVE)
    assert library.choice_size() == CHOICE.size
    library.sample_choices.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    return NativeDraw(
        lambda choices, count: library.sample_choices(choices, count, vocab),
        address,
        4 * vocab,
        rows,
    )


def test_the_runtime_packs_choices_as_the_library_reads_them():
    rng = np.random.default_rng(8)
    x = rng.normal(0, 2, (6, 777)).astype(np.float32)
    logits, asked = aligned_copy(x), []
    for row in (4, 0, 5, 2):
        edits = Edits()
        edits.penalize(rng.integers(777, size=50).tolist(), 1.3)
        mask = memoryview(bytes(rng.integers(0, 256, 4 * 25, np.uint8)))
        asked.append(replace(random_choice(rng), row=row, edits=edits if row else None, top=row,
                             allowed=mask if row != 5 else None, forbidden=[1] * row))  # fmt: skip
    got = [replace(choice) for choice in asked]
    draw_of(777, 6, logits.ctypes.data)(got)
    for choice, result in zip(asked, got, strict=True):
        check_against_reference(x[choice.row], result, choice)
    np.testing.assert_array_equal(logits[[1, 3]], x[[1, 3]])
