"""Latent writes against the layout, attention against float64, and its promise of equal bits."""

import numpy as np
import pytest
from cache_pages import BLOCK
from latent_cases import (
    Pages,
    Shape,
    Step,
    make_step,
    reference,
    rotary_arguments,
    run,
    spread,
    step_arrays,
    tables,
)
from llmc.codegen.cpu.toolchain import LEVELS as LEVELS_OF
from row_kernels import LEVELS, call


def tolerance(kv: str, level: str) -> float:
    """As for attention (`test_attention_kernels.py`); sums are of up to 576 products here, and of
    values whose exponents add 1e-6 to scores."""
    features = LEVELS_OF[level].macros
    if kv == "bf16" and "__AVX512BF16__" in features:
        return 0.03
    if kv == "i8":
        return 0.1 if "__AVX512VNNI__" in features else 1e-4
    return 5e-5


DECODE = [(1, 1), (31, 1), (64, 1), (65, 1), (300, 1)]
MIXED = [(300, 1), (7, 7), (33, 33), (0, 0), (65, 1), (257, 257), (300, 0), (290, 33), (64, 2)]
SHAPES = {
    "f32": Shape(),
    "bf16": Shape(kv="bf16"),
    "int8": Shape(kv="i8"),
    "nothing beside it": Shape(rope=0),
    "nothing beside it, int8": Shape(rope=0, kv="i8"),
    "odd sizes": Shape(heads=3, latent=37, rope=5),
    "odd sizes, bf16": Shape(heads=3, latent=37, rope=5, kv="bf16"),
    "odd sizes, int8": Shape(heads=3, latent=37, rope=5, kv="i8"),
    "80, int8": Shape(latent=80, rope=24, kv="i8"),
    "one head": Shape(heads=1, latent=16, rope=16, kv="bf16"),
    "more heads than rows an item": Shape(heads=130, latent=16, rope=8),
    "sinks": Shape(sinks=True),
    "all options": Shape(window=40, softcap=5.0, kv="bf16", sinks=True),
    "int8, all options": Shape(window=40, softcap=5.0, kv="i8", sinks=True),
}


def check(step: Step, level: str, threads: int = 2) -> None:
    got = run(step, level, threads)
    assert np.isfinite(got).all(), "a slot outside of every query's sight leaked"
    np.testing.assert_allclose(got, reference(step), rtol=0, atol=tolerance(step.shape.kv, level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_options(level: str, name: str):
    check(make_step(SHAPES[name], DECODE), level)
    check(make_step(SHAPES[name], MIXED), level, threads=3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
def test_published_sizes(level: str, kv: str):
    """Rows of all heads fill a thread's scratch memory here."""
    check(make_step(Shape(heads=64, latent=512, rope=64, kv=kv), [(130, 1), (70, 2)]), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", [1, 8, 33, 100, 290])
def test_windows(level: str, window: int):
    # Blocks wholly before a window have no entry in the table, other keys before it are NaN.
    shape = Shape(heads=3, latent=16, rope=8, window=window)
    check(make_step(shape, MIXED), level)
    check(make_step(shape, [(900, 1), (600, 40), (513, 1)]), level, threads=3)


BITWISE = ["f32", "bf16", "int8", "odd sizes, bf16", "all options", "int8, all options"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BITWISE)
def test_same_bits_on_any_number_of_threads(level: str, name: str):
    # 3000 keys are 12 segments, which threads share.
    for sequences in (MIXED, [(3000, 1)], [(3000, 3), (40, 1), (700, 60)]):
        step = make_step(SHAPES[name], sequences)
        alone = run(step, level, 1)
        for threads in (2, 5):
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
@pytest.mark.parametrize("window", [0, 33, 290])
def test_same_bits_in_prefill_and_decode(level: str, window: int, kv: str):
    shape = Shape(heads=3, latent=24, rope=8, window=window, sinks=True, kv=kv)
    step = make_step(shape, [(600, 600)])
    whole = run(step, level, 2)
    for position in [0, 1, 31, 33, 63, 64, 100, 255, 256, 300, 512, 599]:
        decode = run(step.only(0, context=position + 1, query=1), level, 3)
        np.testing.assert_array_equal(whole[position], decode[0], err_msg=f"position {position}")
    chunk = run(step.only(0, context=400, query=150), level, 2)
    np.testing.assert_array_equal(whole[250:400], chunk)


def turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """x [T, H, r] rotated by angles [T, r / 2], in float32 as the kernels do it."""
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    parts = a * cos - b * sin, b * cos + a * sin
    if interleaved:
        return np.stack(parts, -1).reshape(x.shape)
    return np.concatenate(parts, -1)


def angles(tokens: int, rope: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(3).uniform(-3, 3, (tokens, rope // 2 + 2))
    return np.cos(values).astype(np.float32), np.sin(values).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_queries_are_rotated_on_the_way(level: str, interleaved: bool):
    step = make_step(Shape(rope=32), [(70, 3), (9, 9)])
    cos, sin = angles(12, 32)
    got = run(step, level, 2, (cos, sin, 32, interleaved))
    step.q_rope = np.split(turned(np.concatenate(step.q_rope), cos, sin, interleaved), [3])
    np.testing.assert_array_equal(got, run(step, level, 2))


def write(step: Step, level: str, threads: int, rotary: tuple | None = None):
    """(pages that the kernel wrote, its block table)."""
    table, count = tables(step, [c - t for c, t in step.sequences])
    pages = Pages(step.shape, count)
    numbers, arrays = step_arrays(step, table)
    new = [
        spread([x[c - t : c] for x, (c, t) in zip(parts, step.sequences, strict=True)], gap)
        for parts, gap in ((step.c, 3), (step.k, 1))
    ]
    turns, given = rotary_arguments(rotary)
    ints = [*numbers, pages.block_bytes, step.shape.latent, step.shape.rope]
    ints += [new[0].shape[1], new[1].shape[1], *turns]
    name = f"latent_write_{step.shape.kv}"
    call(level, name, threads, ints, [], [*arrays, *new, pages.bytes, *given])
    return pages, table


WRITES = [(70, 3), (1, 1), (0, 0), (128, 64), (200, 137), (66, 1)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["f32", "odd sizes", "odd sizes, bf16", "int8", "80, int8",
                                  "odd sizes, int8", "nothing beside it, int8"])  # fmt: skip
def test_writes_land_where_the_layout_says(level: str, name: str):
    step = make_step(SHAPES[name], WRITES)
    pages, table = write(step, level, 3)
    want = Pages(step.shape, len(pages.bytes))
    for s, (context, tokens) in enumerate(step.sequences):
        for position in range(context - tokens, context):
            block = table[s, position // BLOCK]
            want.put(block, position % BLOCK, step.c[s][position], step.k[s][position])
    if step.shape.kv != "i8":
        np.testing.assert_array_equal(pages.bytes, want.bytes)
        return
    end = step.shape.page_bytes
    np.testing.assert_array_equal(pages.bytes[:, end:], want.bytes[:, end:])
    for block in range(len(want.bytes)):
        # Codes that lie between two, and exponents at the edge of a step, may round differently.
        np.testing.assert_allclose(pages.scales(block), want.scales(block), rtol=1e-6, atol=1e-6)
        codes = pages.keys(block).astype(int) - want.keys(block)
        assert np.abs(codes).max() <= 1
        assert np.mean(codes != 0) < 0.01


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("kv", ["f32", "bf16", "i8"])
def test_writes_rotate_on_the_way(level: str, kv: str, interleaved: bool):
    step = make_step(Shape(rope=32, kv=kv), [(70, 3), (9, 9)])
    cos, sin = angles(12, 32)
    got, _ = write(step, level, 2, (cos, sin, 32, interleaved))
    new = np.concatenate([step.k[0][67:], step.k[1]])[:, None]
    rotated = turned(new, cos, sin, interleaved)[:, 0]
    step.k[0][67:], step.k[1][:] = rotated[:3], rotated[3:]
    want, _ = write(step, level, 1)
    np.testing.assert_array_equal(got.bytes, want.bytes)
