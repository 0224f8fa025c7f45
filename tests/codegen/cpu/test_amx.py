"""The AMX kernels, on a machine with AMX or with its tiles emulated: the bits of the level below.

How rows are grouped into tiles of 16 and what remains must not show; that products match the
references is tested with all other levels in test_linear_kernels.py.
"""

import numpy as np
import pytest
from kernel_harness import build, emulated_levels, runnable_levels
from linear_kernels import Call, Weights, run_linear
from llmc.base.machine import native_features
from llmc.ir.types import DType
from llmc.passes.quantize import INTEGER_FORMATS

AMX, BELOW = "x86-64-v4-amx", "x86-64-v4-bf16"

needs_avx512 = pytest.mark.skipif(
    AMX not in (*runnable_levels(), *emulated_levels()),
    reason="the level with its tiles emulated needs AVX-512 with VNNI and BF16",
)


def inputs(rows: int, k: int) -> np.ndarray:
    return np.random.default_rng([rows, k]).normal(size=(rows, k)).astype(np.float32)


@needs_avx512
@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_same_bits_as_without_amx(format: DType, blocks: int) -> None:
    k = 32 * blocks - 3
    w, x = Weights.random(format, 40, k), inputs(51, k)
    expected = run_linear(BELOW, w, x, 40)
    for rows in (15, 16, 17, 32, 51):
        y = run_linear(AMX, w, x[:rows], 40, Call(threads=2))
        np.testing.assert_array_equal(y, expected[:rows])


@needs_avx512
@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_rows_from_a_list_and_of_experts(format: DType) -> None:
    w, x = Weights.random(format, 33, 96), inputs(40, 96)
    index = np.random.default_rng(0).permutation(40)[:37].astype(np.int32)
    everything = run_linear(AMX, w, x, 33)
    np.testing.assert_array_equal(
        run_linear(AMX, w, x, 33, Call(row_index=index)), everything[index]
    )
    offsets = np.array([0, 20, 20, 37], np.int32)
    packed = Weights(format, np.concatenate([w.packed] * 3), w.values, w.quantized)
    call = Call(row_index=index, offsets=offsets, threads=3)
    np.testing.assert_array_equal(run_linear(AMX, packed, x, 33, call), everything[index])


@pytest.mark.skipif("portable" not in runnable_levels(), reason="for x86")
def test_permission_is_asked_for() -> None:
    """Linux refuses where the processor has no AMX: the library then doesn't start a program."""
    source = "EXPORT int allowed() { return llmc::request_instructions(); }"
    assert build(source, "portable").allowed() == 1
    allowed = build(source, "portable", define="__AMX_TILE__ 1").allowed()
    assert allowed == ("amx_tile" in native_features())
