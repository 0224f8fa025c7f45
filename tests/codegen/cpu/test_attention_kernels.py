"""Paged attention against float64, and its promise of equal bits however a query is computed."""

import numpy as np
import pytest
from attention_cases import Shape, Step, make_step, reference, run
from llmc.codegen.cpu.toolchain import LEVELS as LEVELS_OF
from row_kernels import LEVELS


def tolerance(kv: str, level: str) -> float:
    """Against attention in float64 over what the cache holds.

    Scores are sums of dk products in f32 (errors near 1e-6 at these sizes, more with 2048
    dimensions) and powers of 2 are good to 1e-7, so weights, and with them outputs of size 1, are
    off by a few 1e-6. Levels with dot products of the cache's type round queries and weights to
    it: scores of up to 10 with relative errors of 2^-9 (bf16) or absolute ones of up to 0.1 (int8,
    127 steps for the largest of 64 numbers), and weights change by as much.
    """
    features = LEVELS_OF[level].macros
    if kv == "bf16" and "__AVX512BF16__" in features:
        return 0.03
    if kv == "i8":
        return 0.1 if "__AVX512VNNI__" in features else 5e-5
    return 3e-5


DECODE = [(1, 1), (31, 1), (32, 1), (33, 1), (64, 1), (65, 1), (300, 1)]
MIXED = [(300, 1), (7, 7), (33, 33), (0, 0), (65, 1), (257, 257), (300, 0), (290, 33), (64, 2)]
BASE = Shape()
SHAPES = {
    "grouped": BASE,
    "bf16": Shape(kv="bf16"),
    "int8": Shape(kv="i8"),
    "int8, 9 heads": Shape(heads=9, hkv=3, kv="i8"),
    "int8, 80": Shape(heads=4, hkv=2, dk=80, dv=80, kv="i8"),
    "int8, odd": Shape(heads=4, hkv=2, dk=37, dv=21, kv="i8"),
    "int8, 128": Shape(heads=4, hkv=1, dk=128, dv=128, kv="i8"),
    "int8, all options": Shape(window=40, softcap=5.0, kv="i8", sinks=True, slopes=True),
    "int8, 256": Shape(heads=8, hkv=1, dk=256, dv=256, kv="i8"),
    "one kv head": Shape(heads=9, hkv=1),
    "no groups": Shape(heads=3, hkv=3, dk=24, dv=24),
    "tiny heads": Shape(heads=2, hkv=1, dk=8, dv=8),
    "16": Shape(heads=4, hkv=2, dk=16, dv=16, kv="bf16"),
    "80": Shape(heads=4, hkv=2, dk=80, dv=80),
    "128": Shape(heads=4, hkv=1, dk=128, dv=128),
    "odd, dk != dv": Shape(heads=4, hkv=2, dk=37, dv=21, kv="bf16"),
    "dk 192, dv 128": Shape(heads=2, hkv=2, dk=192, dv=128),
    "more heads a kv head than rows an item": Shape(heads=142, hkv=2, dk=8, dv=8),
    "heads too large for 48 rows": Shape(heads=2, hkv=1, dk=2048, dv=2048),
    "soft cap": Shape(softcap=3.0),
    "sinks": Shape(sinks=True),
    "slopes": Shape(slopes=True),
    "all options": Shape(window=40, softcap=5.0, kv="bf16", sinks=True, slopes=True),
}
WINDOWS = [1, 8, 31, 32, 33, 100, 290]


def check(step: Step, level: str, threads: int = 2) -> None:
    got = run(step, level, threads)
    assert np.isfinite(got).all(), "a slot outside of every query's sight leaked"
    np.testing.assert_allclose(got, reference(step), rtol=0, atol=tolerance(step.shape.kv, level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_options(level: str, name: str):
    shape = SHAPES[name]
    light = shape.dk > 1000
    check(make_step(shape, DECODE), level)
    check(make_step(shape, [(300, 1), (41, 33)] if light else MIXED), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows(level: str, window: int):
    # Blocks wholly before a window have no entry in the table, other keys before it are NaN.
    shape = Shape(heads=3, hkv=1, dk=16, dv=16, window=window)
    check(make_step(shape, DECODE), level)
    check(make_step(shape, MIXED), level)
    check(make_step(shape, [(900, 1), (600, 40), (513, 1)]), level, threads=3)


@pytest.mark.parametrize("level", LEVELS)
def test_single_token(level: str):
    step = make_step(BASE, [(1, 1)])
    np.testing.assert_array_equal(run(step, level)[0], np.repeat(step.v[0][0], 3, axis=0))


BITWISE = [
    *("grouped", "bf16", "one kv head", "odd, dk != dv", "all options"),
    *("int8", "int8, odd", "int8, all options"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BITWISE)
def test_same_bits_on_any_number_of_threads(level: str, name: str):
    # 3000 keys are 12 segments, which threads share.
    for sequences in (MIXED, DECODE, [(3000, 1)], [(3000, 3), (40, 1), (700, 5)]):
        step = make_step(SHAPES[name], sequences)
        alone = run(step, level, 1)
        for threads in (2, 3, 5):
            np.testing.assert_array_equal(alone, run(step, level, threads))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BITWISE)
def test_same_bits_alone_and_in_a_batch(level: str, name: str):
    step = make_step(SHAPES[name], MIXED)
    batch = run(step, level, 2)
    start = 0
    for s, (_, tokens) in enumerate(step.sequences):
        if tokens:
            alone = run(step.only(s), level, 1)
            np.testing.assert_array_equal(batch[start : start + tokens], alone)
        start += tokens


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
@pytest.mark.parametrize("window", [0, 1, 33, 100, 290])
def test_same_bits_in_prefill_and_decode(level: str, window: int, kv: str):
    # Includes queries whose window starts in another tile or segment than that of their neighbours.
    shape = Shape(heads=3, hkv=1, dk=24, dv=24, window=window, sinks=True, kv=kv)
    step = make_step(shape, [(600, 600)])
    whole = run(step, level, 2)
    for position in [0, 1, 30, 31, 32, 33, 63, 64, 100, 255, 256, 257, 300, 511, 512, 599]:
        decode = run(step.only(0, context=position + 1, query=1), level, 3)
        np.testing.assert_array_equal(whole[position], decode[0], err_msg=f"position {position}")
    chunk = run(step.only(0, context=400, query=150), level, 2)
    np.testing.assert_array_equal(whole[250:400], chunk)


@pytest.mark.parametrize("level", LEVELS)
def test_large_scores_do_not_overflow(level: str):
    step = make_step(BASE, [(300, 2), (70, 70)])
    for q in step.q:
        q *= 100  # logits of several hundred: the softmax is nearly an argmax
    got = run(step, level)
    # Errors of scores grow with them (1e-6 of 1e3) and shift weights between close keys.
    np.testing.assert_allclose(got, reference(step), rtol=0, atol=2e-3)
