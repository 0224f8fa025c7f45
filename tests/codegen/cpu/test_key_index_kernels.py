"""The index's choice and attention to chosen latents, against their definitions in float64."""

import numpy as np
import pytest
from cache_pages import BLOCK
from kernel_harness import aligned
from latent_cases import Shape, Step, make_step, reference, run
from llmc.codegen.cpu.toolchain import LEVELS as LEVELS_OF
from row_kernels import LEVELS, call, from_bf16, to_bf16

SEQUENCES = [(300, 1), (7, 7), (0, 0), (65, 3), (130, 130), (64, 2)]
POISON = -77


def every_key(step: Step, width: int) -> np.ndarray:
    """All that each query sees, up to `width` keys."""
    rows = []
    for context, tokens in step.sequences:
        for position in range(context - tokens, context):
            rows.append(np.where(np.arange(width) <= position, np.arange(width), -1))
    return np.array(rows, np.int32)


def some_keys(step: Step, topk: int) -> np.ndarray:
    """A random choice for each query, its own position not always among it."""
    rng = np.random.default_rng(5)
    rows = []
    for context, tokens in step.sequences:
        for position in range(context - tokens, context):
            count = min(topk, position + 1)
            picked = np.sort(rng.choice(position + 1, count, replace=False))
            rows.append(np.pad(picked, (0, topk - count), constant_values=-1))
    return np.array(rows, np.int32)


def tolerance(kv: str, level: str) -> float:
    """As `test_latent_kernels.py`."""
    features = LEVELS_OF[level].macros
    if kv == "bf16" and "__AVX512BF16__" in features:
        return 0.03
    if kv == "i8":
        return 0.1 if "__AVX512VNNI__" in features else 1e-4
    return 5e-5


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
def test_attention_to_chosen_keys(level: str, kv: str):
    shape = Shape(heads=51, latent=37, rope=5, kv=kv, sinks=True, softcap=5.0)
    step = make_step(shape, SEQUENCES)
    for topk in (1, 5, 70):
        choice = some_keys(step, topk)
        got = run(step, level, 2, choice=choice)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, reference(step, choice), rtol=0, atol=tolerance(kv, level))
        np.testing.assert_array_equal(got, run(step, level, 3, choice=choice))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
def test_a_choice_of_all_keys_changes_no_bit(level: str, kv: str):
    step = make_step(Shape(heads=6, kv=kv), [(300, 1), (290, 33), (65, 3)])
    choice = every_key(step, 320)
    np.testing.assert_array_equal(run(step, level, 1), run(step, level, 2, choice=choice))


@pytest.mark.parametrize("level", LEVELS)
def test_windows_hide_chosen_keys(level: str):
    """What the choice has before a window is passed over, though its blocks may be gone."""
    step = make_step(Shape(window=40), [(300, 1), (200, 9)])
    choice = every_key(step, 320)
    got = run(step, level, 1, choice=choice)
    np.testing.assert_allclose(got, reference(step, choice), rtol=0, atol=5e-5)


def choose(
    level: str, kv: str, heads: int, size: int, topk: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """(choices of the kernel, scores [T, context] in float64; NaN for what isn't seen).

    Each sequence is written in the same step; pools are NaN before.
    """
    rng = np.random.default_rng([heads, size, topk])
    lengths = [1, 65, 150]
    total, columns = sum(lengths), -(-max(lengths) // BLOCK)
    q, k, weights = (
        rng.standard_normal((total, n)).astype(np.float32) for n in (heads * size, size, heads)
    )
    needed = [-(-n // BLOCK) for n in lengths]
    free = list(rng.permutation(sum(needed) + 1))
    table = np.full((len(lengths), columns), -1, np.int32)
    for s, count in enumerate(needed):
        table[s, :count] = [free.pop() for _ in range(count)]
    width = -(-size // 16) * 16
    pool = aligned((sum(needed) + 1) * BLOCK * width * (4 if kv == "f32" else 2), np.uint8, 0xFF)
    choice = np.full((total + 1, topk), POISON, np.int32)
    starts = np.array([0, *np.cumsum(lengths)], np.int32)
    contexts = np.array(lengths, np.int32)
    block = BLOCK * width * (4 if kv == "f32" else 2)
    ints = [total, len(lengths), columns, block, size, size, heads, heads * size, heads, topk]
    arrays = [starts, contexts, table, k, q, weights, pool, choice]
    call(level, f"key_index_{kv}", threads, ints, [size**-0.5], arrays)
    assert (choice[-1] == POISON).all()
    kept = k if kv == "f32" else from_bf16(to_bf16(k))
    scores = np.full((total, max(lengths)), np.nan)
    for first, count in zip(starts, lengths, strict=False):
        rows = q[first : first + count].reshape(count, heads, size).astype(np.float64)
        products = np.einsum("qhd,kd->qhk", rows, kept[first : first + count]) * size**-0.5
        own = np.einsum("qh,qhk->qk", weights[first : first + count], np.maximum(products, 0))
        scores[first : first + count, :count] = np.where(np.tri(count), own, np.nan)
    return choice[:-1], scores


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16"])
@pytest.mark.parametrize(("heads", "size"), [(16, 32), (19, 37), (3, 8)])
def test_the_best_are_chosen(level: str, kv: str, heads: int, size: int):
    """What is chosen scores as high as what is left out, up to rounding; in ascending order."""
    rounds = kv == "bf16" and "__AVX512BF16__" in LEVELS_OF[level].macros
    slack = 0.05 * heads**0.5 if rounds else 1e-5 * heads
    for topk in (1, 16, 64, 100):
        choice, scores = choose(level, kv, heads, size, topk, 2)
        np.testing.assert_array_equal(choice, choose(level, kv, heads, size, topk, 3)[0])
        for row, own in zip(choice, scores, strict=True):
            seen = int((~np.isnan(own)).sum())
            count = min(topk, seen)
            picked = row[:count]
            assert (row[count:] == -1).all()
            assert (np.diff(picked) > 0).all()
            assert picked.min() >= 0
            assert picked.max() < seen
            left = np.delete(own[:seen], picked)
            if len(left):
                assert own[picked].min() >= left.max() - slack


@pytest.mark.parametrize("level", LEVELS)
def test_of_equal_scores_the_earlier_is_chosen(level: str):
    """Queries of zeros give every key the score 0."""
    starts, contexts = np.array([0, 100], np.int32), np.array([100], np.int32)
    table = np.array([[1, 0]], np.int32)
    k = np.ones((100, 16), np.float32)
    q, weights = np.zeros((100, 32), np.float32), np.ones((100, 2), np.float32)
    pool = aligned(2 * BLOCK * 16 * 4, np.uint8, 0xFF)
    choice = np.full((100, 7), POISON, np.int32)
    ints = [100, 1, 2, BLOCK * 16 * 4, 16, 16, 2, 32, 2, 7]
    call(
        level,
        "key_index_f32",
        2,
        ints,
        [1.0],
        [starts, contexts, table, k, q, weights, pool, choice],
    )
    for position, row in enumerate(choice):
        assert row.tolist() == [i if i <= position else -1 for i in range(7)]
