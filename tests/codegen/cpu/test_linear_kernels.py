"""Linear kernels of every format and level against float64 references, and their exact promises."""

import numpy as np
import pytest
from kernel_harness import emulated_levels, runnable_levels
from linear_kernels import (
    ACTS,
    Call,
    Weights,
    reference_act,
    reference_product,
    run_heads,
    run_linear,
)
from llmc.codegen.cpu.packing import PACKED
from llmc.ir.tiles import PANEL
from llmc.ir.types import DType

LEVELS = [*runnable_levels(), *emulated_levels()]
FORMATS = list(PACKED)
# One level for what doesn't depend on the instruction set.
BEST = runnable_levels()[-1]


def inputs(rows: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, rows, k]).normal(size=(rows, k)).astype(np.float32)


def assert_within(y: np.ndarray, values: np.ndarray, tolerance: np.ndarray | float):
    assert y.shape == values.shape
    error = np.abs(y - values)
    assert (error <= tolerance).all(), f"worst {np.max(error / (tolerance + 1e-30)):.2f}x tolerance"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_products_match_the_reference(level: str, format: DType):
    for n, k in ((1, 64), (15, 1), (16, 32), (17, 31), (577, 33), (33, 577)):
        w = Weights.random(format, n, k)
        for rows in (1, 2, 3, 7, 8, 13, 64):
            x = inputs(rows, k)
            expected = reference_product(level, w, x)
            y = run_linear(level, w, x, n)
            assert_within(y, expected.values, expected.tolerance)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_extreme_codes_do_not_saturate(level: str, format: DType):
    # Largest weights times largest activations, of both signs: where 16-bit sums would overflow.
    k = 320
    rows = np.ones((32, k), np.float32)
    rows[16:] = -1
    rows[:, 1::2] *= np.where(np.arange(32) % 2, 1, -1)[:, None]
    w = Weights.of(format, rows)
    x = np.stack([np.ones(k), -np.ones(k), np.resize([1.0, -1.0], k)]).astype(np.float32)
    expected = reference_product(level, w, x)
    y = run_linear(level, w, x, 32)
    assert_within(y, expected.values, expected.tolerance)
    assert np.abs(y).max() > 0.9 * k


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_is_the_same_alone_and_in_any_batch_on_any_threads(level: str, format: DType):
    n, k = 75, 160
    w = Weights.random(format, n, k)
    x = inputs(40, k)
    alone = np.concatenate([run_linear(level, w, x[i : i + 1], n) for i in range(len(x))])
    for rows in range(1, 41):
        y = run_linear(level, w, x[:rows], n, Call(threads=rows % 3 + 1))
        np.testing.assert_array_equal(y, alone[:rows])


@pytest.mark.parametrize("format", FORMATS)
def test_batches_of_several_chunks(format: DType):
    # More rows than one chunk of input holds at this K, so that threads get different chunks.
    n, k, rows = 40, 8192, 150
    w = Weights.random(format, n, k)
    x = inputs(rows, k)
    expected = reference_product(BEST, w, x)
    one = run_linear(BEST, w, x, n)
    assert_within(one, expected.values, expected.tolerance)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(run_linear(BEST, w, x, n, Call(threads=threads)), one)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_heads_have_their_own_matrices(level: str, format: DType):
    """Bit for bit a linear layer a head, on any threads."""
    for rows, heads, n, k in ((1, 3, 16, 32), (2, 5, 17, 33), (19, 2, 40, 96)):
        weights = [Weights.random(format, n, k, seed) for seed in range(heads)]
        x = inputs(rows * heads, k).reshape(rows, heads, k)
        alone = [run_linear(level, w, x[:, h], n) for h, w in enumerate(weights)]
        for threads in (1, 2, 3):
            y = run_heads(level, weights, x, n, threads)
            np.testing.assert_array_equal(y, np.stack(alone, 1))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("level", LEVELS)
def test_bias_and_activation(level: str, act: str):
    n, k = 35, 64
    w, x = Weights.random(DType.F32, n, k, seed=1), inputs(5, k, 1) * 10
    bias = np.random.default_rng(2).normal(size=n).astype(np.float32)
    y = run_linear(level, w, x, n, Call(act=act, bias=bias))
    product = reference_product(level, w, x)
    expected = reference_act(act, product.values + bias)
    # Slopes are at most about 2 |v| (relu2) or 1.2; the functions themselves are good to 3e-7.
    slope = 1.2 + 2 * np.abs(product.values + bias) * (act == "relu2")
    assert_within(y, expected, slope * product.tolerance + 1e-6 + 1e-6 * np.abs(expected))


@pytest.mark.parametrize("format", [DType.F32, DType.I4A])
@pytest.mark.parametrize("columns", [16, 33, 64])
def test_gated_layers_pair_gate_and_up_panels(format: DType, columns: int):
    k, padded = 96, -(-columns // PANEL) * PANEL
    rng = np.random.default_rng(3)
    gate, up = (
        np.pad(rng.normal(size=(columns, k)).astype(np.float32), ((0, padded - columns), (0, 0)))
        for _ in range(2)
    )
    turns = np.stack([gate.reshape(-1, PANEL, k), up.reshape(-1, PANEL, k)], 1).reshape(-1, k)
    bias = rng.normal(size=2 * padded).astype(np.float32)
    w, x = Weights.of(format, turns), inputs(11, k, 3)
    product = reference_product(BEST, w, x)
    gate_up = (product.values + bias).reshape(11, -1, 2, PANEL)
    tolerance = product.tolerance.reshape(gate_up.shape)
    g, u = (gate_up[:, :, i].reshape(11, -1)[:, :columns] for i in (0, 1))
    dg, du = (tolerance[:, :, i].reshape(11, -1)[:, :columns] for i in (0, 1))
    expected = reference_act("silu", g) * u
    for threads in (1, 2, 3):
        call = Call(act="silu", gated=True, bias=bias, threads=threads)
        y = run_linear(BEST, w, x, 2 * columns, call)
        assert_within(y, expected, 1.2 * dg * np.abs(u) + du * np.abs(g) + 1e-6 * np.abs(expected))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("format", [DType.F32, DType.I8B])
def test_residual(format: DType, in_place: bool):
    n, k = 37, 64
    w, x = Weights.random(format, n, k), inputs(9, k)
    residual = inputs(9, n, 5)
    expected = reference_product(BEST, w, x)
    y = run_linear(BEST, w, x, n, Call(residual=residual, in_place=in_place, threads=2))
    assert_within(y, expected.values + residual, expected.tolerance + 2e-7 * (1 + np.abs(y)))


@pytest.mark.parametrize("level", LEVELS)
def test_softcap(level: str):
    w, x = Weights.random(DType.F32, 20, 32), inputs(3, 32) * 40
    expected = reference_product(level, w, x)
    y = run_linear(level, w, x, 20, Call(softcap=5.0))
    assert_within(y, 5 * np.tanh(expected.values / 5), expected.tolerance + 2e-6)
    assert np.abs(expected.values).max() > 10


@pytest.mark.parametrize("format", FORMATS)
def test_gathered_rows(format: DType):
    w, x = Weights.random(format, 50, 64), inputs(12, 64)
    index = np.array([7, 7, 0, 11, 3, 5, 9, 1, 2], np.int32)
    everything = run_linear(BEST, w, x, 50)
    for threads in (1, 2):
        y = run_linear(BEST, w, x, 50, Call(row_index=index, threads=threads))
        np.testing.assert_array_equal(y, everything[index])


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_experts(format: DType, gathered: bool):
    n, k, counts = 35, 96, [3, 0, 1, 9, 0, 2]
    weights = [Weights.random(format, n, k, seed) for seed in range(len(counts))]
    packed = Weights(
        format, np.concatenate([w.packed.reshape(-1) for w in weights]), weights[0].values, None
    )
    offsets = np.array([0, *np.cumsum(counts)], np.int32)
    x = inputs(15, k, 8)
    index = np.random.default_rng(9).permutation(15).astype(np.int32)
    rows = x[index] if gathered else x
    bias = np.random.default_rng(10).normal(size=(len(counts), n)).astype(np.float32)
    expected = np.concatenate(
        [
            run_linear(BEST, w, rows[start:stop], n, Call(bias=bias[i].copy()))
            for i, (w, start, stop) in enumerate(zip(weights, offsets, offsets[1:], strict=False))
            if stop > start
        ]
    )
    for threads in (1, 2, 5):
        call = Call(offsets=offsets, bias=bias, threads=threads)
        call.row_index = index if gathered else None
        np.testing.assert_array_equal(run_linear(BEST, packed, x, n, call), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_is_no_work(format: DType):
    w = Weights.random(format, 16, 32)
    index = np.empty(0, np.int32)
    y = run_linear(BEST, w, inputs(1, 32), 16, Call(row_index=index, threads=2))
    assert y.shape == (0, 16)


@pytest.mark.parametrize("level", LEVELS)
def test_inputs_of_zeros_give_exactly_the_bias(level: str):
    # Scale 0: neither the offset of the codes nor a block's minimum may leak.
    bias = np.arange(1, 34, dtype=np.float32)
    for format in FORMATS:
        w = Weights.random(format, 33, 64)
        y = run_linear(level, w, np.zeros((2, 64), np.float32), 33, Call(bias=bias))
        np.testing.assert_array_equal(y, np.stack([bias, bias]))
