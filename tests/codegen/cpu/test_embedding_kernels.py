"""Embedding lookups and activation quantization: exactly what the formats mean."""

import numpy as np
import pytest
from kernel_harness import emulated_levels, runnable_levels
from linear_kernels import Weights, run_embedding, run_quantize
from llmc.codegen.cpu.packing import PACKED
from llmc.ir.types import DType
from quantized_rows import quantize_rows

LEVELS = [*runnable_levels(), *emulated_levels()]


@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("level", LEVELS)
def test_lookups_give_the_values_of_the_format(level: str, format: DType):
    for n, k in ((1, 1), (17, 31), (50, 64), (33, 97)):
        w = Weights.random(format, n, k)
        ids = np.random.default_rng(1).integers(0, n, 9).astype(np.int32)
        for threads, scale in ((1, 1.0), (2, 1.0), (3, 24.0)):
            y = run_embedding(level, w, ids, scale, threads)
            np.testing.assert_array_equal(y, w.values[ids] * np.float32(scale))


@pytest.mark.parametrize("level", LEVELS)
def test_quantization_is_the_defined_one(level: str):
    rng = np.random.default_rng(2)
    for rows, k in ((1, 1), (2, 15), (3, 16), (1, 17), (5, 31), (7, 32), (3, 33), (4, 577)):
        x = (rng.normal(size=(rows, k)) * 10.0 ** rng.integers(-3, 4, (rows, 1))).astype(np.float32)
        x[-1, : k // 2] = 0
        expected = quantize_rows(x)
        for threads in (1, 2, 3):
            for got, want in zip(run_quantize(level, x, threads), expected, strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", LEVELS)
def test_blocks_of_zeros_and_of_tiny_numbers_quantize_to_zeros(level: str):
    x = np.zeros((2, 64), np.float32)
    x[0, 40] = 1e-44
    x[1, 3] = 2.5
    q, scale, total = run_quantize(level, x)
    assert q[1, 3] == 127
    q[1, 3] = 0
    assert not q.any()
    assert scale[1, 1] == 0
    assert total[0, 1] == 0
