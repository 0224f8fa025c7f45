"""Quantization formats: round trips, error bounds, agreement with GGUF's block formats."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from llmc.ir.tiles import BLOCK, round_up
from llmc.ir.types import DType
from llmc.weights.formats.number_format import concatenate, super_block_length
from llmc.weights.formats.registry import (
    FORMATS,
    dequantize,
    format_of,
    formats_that_hold,
    is_quantized,
    quantize,
)

pytestmark = pytest.mark.fast

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 100))


def weights(seed: int, n: int = 48, k: int = 256, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(6, (n, k)) * scale).astype(np.float32)


def matrices(limit: float = 1e3) -> st.SearchStrategy[np.ndarray]:
    floats = st.floats(-limit, limit, width=32, allow_subnormal=False)
    return SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=floats))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("k", [1, 31, 32, 33, 160])
def test_shapes_and_padding_codes(format: DType, k: int) -> None:
    q, facts = quantize(weights(1, 5, k), format), format_of(format)
    block = 16 if format is DType.I6K else BLOCK
    blocks = round_up(k, block) // block
    assert q.codes.shape == (5, blocks * block)
    assert (q.codes[:, k:] == facts.zero_code).all()
    assert dequantize(q).shape == (5, k)
    if facts.per_row:
        assert q.scales.shape == (5,)
        assert q.scales.dtype == np.float32
        return
    assert q.scales.dtype == np.float16
    if facts.has_super_blocks:
        assert q.scales.shape == (5, 1)
        assert q.factors is not None
        assert q.factors.shape == (5, blocks)
    else:
        assert q.scales.shape == (5, blocks)


def test_super_blocks_are_those_of_gguf_or_leave_little_empty() -> None:
    for blocks in range(1, 3000):
        length = super_block_length(blocks)
        assert length == 8 or blocks % 8
        assert 5 <= length <= 10 or length == blocks < 5
        supers = -(-blocks // length)
        assert supers * length - blocks < supers
    assert [super_block_length(k // 32) for k in (640, 576, 896, 1152, 2048)] == [10, 9, 7, 9, 8]


@given(matrices(), st.sampled_from(list(FORMATS)))
def test_error_is_at_most_a_step(values: np.ndarray, format: DType) -> None:
    """No element is further away than the search may move it: clipping at most 20 % of a block's
    range, plus half a step, plus the float16 rounding of scale and minimum."""
    q = quantize(values, format)
    blocks = np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK)), mode="edge")
    blocks = blocks.reshape(len(values), -1, BLOCK)
    error = np.abs(dequantize(q) - values)
    peak = np.abs(blocks).max(axis=2).repeat(BLOCK, axis=1)[:, : values.shape[1]]
    widest = np.abs(values).max(axis=1, keepdims=True)  # these rows are one super-block
    bound = {
        DType.F8C: np.abs(values) / 16 * 1.001 + widest / 448 * 2.0**-10 * 1.001,
        DType.I8C: widest / 127 * 0.501,
        DType.I8B: peak / 127 * 0.62,
        DType.I6K: peak * 0.04 + widest / 128 * 0.51,
        DType.I5S: peak * 0.13,
        DType.I5A: peak * 0.21,
        DType.I5K: peak * 0.26 + widest / 63,
        DType.I4K: peak * 0.32 + widest / 63,
        DType.I4S: peak * 0.26,
        DType.I4A: peak * 0.27,
    }[format]
    smallest = np.float32(6e-8) * 16  # a scale can't be finer than float16's smallest subnormal
    assert (error <= bound + smallest).all()


@given(matrices(), st.sampled_from(list(FORMATS)))
def test_quantizing_is_deterministic_and_row_local(values: np.ndarray, format: DType) -> None:
    whole = quantize(values, format)
    rows = concatenate([quantize(values[i : i + 1], format) for i in range(len(values))])
    assert (whole.codes == rows.codes).all()
    for name in ("scales", "mins", "factors", "min_factors"):
        a, b = getattr(whole, name), getattr(rows, name)
        assert a is b is None or (a == b).all()


@pytest.mark.parametrize(
    ("format", "kind", "at_most"),
    [
        (DType.I8B, gguf.GGMLQuantizationType.Q8_0, 1.01),
        (DType.I4S, gguf.GGMLQuantizationType.Q4_0, 0.95),
        (DType.I4A, gguf.GGMLQuantizationType.Q4_1, 0.93),
        (DType.I4K, gguf.GGMLQuantizationType.Q4_1, 0.93),  # of which it is 9/10 as large
        (DType.I5S, gguf.GGMLQuantizationType.Q5_0, 0.97),
        (DType.I5A, gguf.GGMLQuantizationType.Q5_1, 0.97),
        (DType.I5K, gguf.GGMLQuantizationType.Q5_1, 0.99),
    ],
)
def test_squared_error_is_below_that_of_gguf(
    format: DType, kind: gguf.GGMLQuantizationType, at_most: float
) -> None:
    w = weights(2, 256, 1024)
    theirs = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
    ours = dequantize(quantize(w, format))
    assert ((ours - w) ** 2).sum() <= at_most * ((theirs - w) ** 2).sum()


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_of_zeros_stays_zero(format: DType) -> None:
    w = weights(3, 4, 64)
    w[2] = 0
    values = dequantize(quantize(w, format))
    assert (values[2] == 0).all()
    assert np.abs(values[1]).max() > 0


@pytest.mark.parametrize("format", FORMATS)
def test_extreme_values_stay_finite(format: DType) -> None:
    """The largest that the format's scales hold (f32 a row, float16 a block), and denormals."""
    w = weights(4, 4, 64)
    w[0, 0], w[1] = 3e38 if format_of(format).per_row else 4e5, 1e-40
    q = quantize(w, format)
    assert q.is_finite()
    assert np.isfinite(dequantize(q)).all()


@pytest.mark.parametrize("format", [f for f, facts in FORMATS.items() if not facts.per_row])
def test_a_scale_beyond_float16_is_an_error(format: DType) -> None:
    """A clipped scale would change the weights silently."""
    w = weights(4, 4, 64)
    w[2, 40] = 3e38
    with pytest.raises(OverflowError, match="beyond float16"):
        quantize(w, format)


@pytest.mark.parametrize("bad", [DType.F32, DType.BF16])
def test_unquantized_formats_are_refused(bad: DType) -> None:
    with pytest.raises(ValueError, match="not a quantized format"):
        quantize(weights(7, 2, 64), bad)


def test_each_format_is_found_by_its_type() -> None:
    assert all(format.dtype is dtype for dtype, format in FORMATS.items())
    assert all(is_quantized(dtype) for dtype in FORMATS)
    assert not is_quantized(DType.BF16)


def test_the_smallest_format_that_holds_a_checkpoints_blocks_comes_first() -> None:
    assert formats_that_hold("q4_0") == (
        DType.I4S, DType.I4A, DType.I5S, DType.I5A, DType.I8B,
    )  # fmt: skip
    assert formats_that_hold("q4_1") == (DType.I4A, DType.I5A)
    assert formats_that_hold("q8_0") == (DType.I8B,)
    assert formats_that_hold("q4_k") == (DType.I4K, DType.I5K)
    assert formats_that_hold("q6_k") == (DType.I6K,)
    assert formats_that_hold("fp8_channel") == (DType.F8C,)
    assert formats_that_hold("iq2_xs") == ()
