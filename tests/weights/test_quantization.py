"""Quantization formats: round trips, error bounds, agreement with GGUF's block formats."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from llmc.weights.quantization import (
    BLOCK,
    Quantized,
    WeightFormat,
    concatenate,
    dequantize,
    from_bf16,
    padded_k,
    quantize,
    quantize_rows,
    to_bf16,
    zero_rows,
)

pytestmark = pytest.mark.fast

FORMATS = [f for f in WeightFormat if f.is_quantized]
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 100))


def weights(seed: int, n: int = 48, k: int = 256, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(6, (n, k)) * scale).astype(np.float32)


def matrices(limit: float = 1e3) -> st.SearchStrategy[np.ndarray]:
    floats = st.floats(-limit, limit, width=32, allow_subnormal=False)
    return SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=floats))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("k", [1, 31, 32, 33, 160])
def test_shapes_and_padding_codes(format: WeightFormat, k: int) -> None:
    q = quantize(weights(1, 5, k), format)
    assert q.codes.shape == (5, padded_k(k))
    assert (q.codes[:, k:] == format.zero_code).all()
    assert dequantize(q).shape == (5, k)
    if format is WeightFormat.I8C:
        assert q.scales.shape == (5,)
        assert q.scales.dtype == np.float32
    else:
        assert q.scales.shape == (5, padded_k(k) // BLOCK)
        assert q.scales.dtype == np.float16


@given(matrices(), st.sampled_from(FORMATS))
def test_error_is_at_most_a_step(values: np.ndarray, format: WeightFormat) -> None:
    """No element is further away than the search may move it: clipping at most 20 % of a block's
    range, plus half a step, plus the float16 rounding of scale and minimum."""
    q = quantize(values, format)
    blocks = np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK)), mode="edge")
    blocks = blocks.reshape(len(values), -1, BLOCK)
    error = np.abs(dequantize(q) - values)
    peak = np.abs(blocks).max(axis=2).repeat(BLOCK, axis=1)[:, : values.shape[1]]
    bound = {
        WeightFormat.I8C: np.abs(values).max(axis=1, keepdims=True) / 127 * 0.501,
        WeightFormat.I8B: peak / 127 * 0.62,
        WeightFormat.I4S: peak * 0.26,
        WeightFormat.I4A: peak * 0.27,
    }[format]
    smallest = np.float32(6e-8) * 16  # a scale can't be finer than float16's smallest subnormal
    assert (error <= bound + smallest).all()


@given(matrices(), st.sampled_from(FORMATS))
def test_quantizing_is_deterministic_and_row_local(
    values: np.ndarray, format: WeightFormat
) -> None:
    whole = quantize(values, format)
    rows = concatenate([quantize(values[i : i + 1], format) for i in range(len(values))])
    assert (whole.codes == rows.codes).all()
    assert (whole.scales == rows.scales).all()
    assert whole.mins is None or (whole.mins == rows.mins).all()


@pytest.mark.parametrize(
    ("format", "kind", "at_most"),
    [
        (WeightFormat.I8B, gguf.GGMLQuantizationType.Q8_0, 1.01),
        (WeightFormat.I4S, gguf.GGMLQuantizationType.Q4_0, 0.95),
        (WeightFormat.I4A, gguf.GGMLQuantizationType.Q4_1, 0.93),
    ],
)
def test_squared_error_is_below_that_of_gguf(
    format: WeightFormat, kind: gguf.GGMLQuantizationType, at_most: float
) -> None:
    w = weights(2, 256, 1024)
    theirs = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
    ours = dequantize(quantize(w, format))
    assert ((ours - w) ** 2).sum() <= at_most * ((theirs - w) ** 2).sum()


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_of_zeros_stays_zero(format: WeightFormat) -> None:
    w = weights(3, 4, 64)
    w[2] = 0
    values = dequantize(quantize(w, format))
    assert (values[2] == 0).all()
    assert np.abs(values[1]).max() > 0


@pytest.mark.parametrize("format", FORMATS)
def test_extreme_values_stay_finite(format: WeightFormat) -> None:
    """The largest that the format's scales hold (f32 a row, float16 a block), and denormals."""
    w = weights(4, 4, 64)
    w[0, 0], w[1] = 3e38 if format is WeightFormat.I8C else 4e5, 1e-40
    q = quantize(w, format)
    assert q.is_finite()
    assert np.isfinite(dequantize(q)).all()


@pytest.mark.parametrize("format", [f for f in FORMATS if f is not WeightFormat.I8C])
def test_a_scale_beyond_float16_is_an_error(format: WeightFormat) -> None:
    """A clipped scale would change the weights silently."""
    w = weights(4, 4, 64)
    w[2, 40] = 3e38
    with pytest.raises(OverflowError, match="beyond float16"):
        quantize(w, format)


def test_constant_blocks_are_exact_in_i4a() -> None:
    w = np.full((2, 64), -1.375, np.float32)
    assert (dequantize(quantize(w, "i4a")) == w).all()


@pytest.mark.parametrize("format", FORMATS)
def test_take_and_concatenate(format: WeightFormat) -> None:
    q = quantize(weights(5, 12, 96), format)
    order = np.array([3, 1, 11, 0])
    assert (dequantize(q.take(order)) == dequantize(q)[order]).all()
    halves = concatenate([q.take(slice(0, 5)), q.take(slice(5, 12))])
    assert (dequantize(halves) == dequantize(q)).all()
    padded = concatenate([q, zero_rows(format, 3, 96)])
    assert (dequantize(padded)[12:] == 0).all()


def test_concatenate_refuses_mixed_formats() -> None:
    parts = [quantize(weights(6, 2, 64), f) for f in ("i4s", "i4a")]
    with pytest.raises(ValueError, match="agree"):
        concatenate(parts)


@pytest.mark.parametrize("bad", ["f32", "bf16"])
def test_unquantized_formats_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="not a quantized format"):
        quantize(weights(7, 2, 64), bad)


def test_non_finite_scales_are_seen() -> None:
    q = quantize(weights(8, 2, 64), "i4a")
    scales = q.scales.copy()
    scales[1, 0] = np.nan
    assert q.is_finite()
    assert not Quantized(q.format, q.codes, scales, q.mins, q.k).is_finite()


@given(matrices(1e6))
def test_activation_rows(x: np.ndarray) -> None:
    q, scale, total = quantize_rows(x)
    t, k = x.shape
    blocks = q.reshape(t, -1, BLOCK).astype(np.float64) * scale[..., None]
    values = blocks.reshape(t, -1)[:, :k]
    step = scale.repeat(BLOCK, axis=1)[:, :k]
    assert (np.abs(values - x) <= 0.501 * step + 1e-30).all()
    assert (q[:, k:] == 0).all()
    # The sum is exact up to one float32 rounding of the product.
    assert np.allclose(total, blocks.sum(axis=2), rtol=1e-6, atol=0)


def test_activation_rows_of_zeros() -> None:
    x = weights(9, 3, 64, scale=1.0)
    x[1, :32] = 0
    q, scale, total = quantize_rows(x)
    assert scale[1, 0] == 0
    assert (q[1, :32] == 0).all()
    assert total[1, 0] == 0
    assert (np.abs(q[0].reshape(-1, BLOCK)).max(axis=1) == 127).all()


def test_bf16_rounds_half_to_even_like_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate(
        [
            weights(10).ravel(),
            np.array([1.00390625, 1.01171875, -1.00390625, 3.3e38, 0, 1e-40], np.float32),
        ]
    )
    expected = torch.from_numpy(values).bfloat16()
    assert (to_bf16(values) == expected.view(torch.uint16).numpy()).all()
    assert (from_bf16(to_bf16(values)) == expected.float().numpy()).all()
