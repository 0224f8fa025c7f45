"""Weights row after row: what was packed is what the documented bytes say."""

import numpy as np
import pytest
from llmc.ir.tiles import BLOCK, round_up
from llmc.ir.types import DType
from llmc.weights.formats.elements import FLOAT8, from_bf16
from llmc.weights.formats.registry import FORMATS, dequantize, is_quantized, quantize
from llmc.weights.row_layout import RowLayout

pytestmark = pytest.mark.fast

ALL = (DType.F32, DType.BF16, *FORMATS)
SHAPES = [(1, 32), (5, 64), (3, 33), (17, 96)]


def unpacked(
    format: DType, parts: tuple[np.ndarray, ...], n: int, k: int, unsigned: bool
) -> np.ndarray:
    """The float32 values that the sections stand for, by the table in the module's docstring."""
    if format is DType.F32:
        return parts[0].view(np.float32).reshape(n, k)
    if format is DType.BF16:
        return from_bf16(parts[0].view(np.uint16)).reshape(n, k)
    scales = parts[1].view(np.float32)
    if format is DType.F8C:
        return FLOAT8["e4m3"][parts[0]].reshape(n, k) * scales[:, None]
    if format is DType.I8C:
        return parts[0].view(np.int8).reshape(n, k) * scales[:, None]
    block = 16 if format is DType.I6K else BLOCK
    width = round_up(k, block)
    if format in (DType.I8B, DType.I5S, DType.I6K):
        codes = parts[0].astype(np.int32) - 128 if unsigned else parts[0].view(np.int8)
    elif format in (DType.I5A, DType.I5K):
        codes = parts[0].astype(np.int32)
    else:
        codes = np.stack((parts[0] & 15, parts[0] >> 4), 1).reshape(-1).astype(np.int32)
        if format is DType.I4S:
            codes = codes - 8 if unsigned else (codes ^ 8) - 8
    blocks = codes.reshape(n, width // block, block) * scales.reshape(n, -1, 1)
    if len(parts) == 3:
        blocks = blocks + parts[2].view(np.float32).reshape(n, -1, 1)
    return blocks.reshape(n, width)[:, :k].astype(np.float32)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("format", ALL)
def test_bytes_stand_for_the_values(format: DType, n: int, k: int, unsigned: bool) -> None:
    layout = RowLayout(unsigned)
    weights = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    rows = quantize(weights, format) if is_quantized(format) else weights
    parts = layout.pack(format, rows)
    assert tuple(p.nbytes for p in parts) == layout.sections(format, (n, k))
    expected = dequantize(quantize(weights, format)) if is_quantized(format) else weights
    if format is DType.BF16:
        expected = from_bf16(parts[0].view(np.uint16)).reshape(n, k)
        np.testing.assert_allclose(expected, weights, rtol=2**-8)
    # Scales are exact in float32; a minimum is added in another order.
    np.testing.assert_allclose(
        unpacked(format, parts, n, k, unsigned), expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("format", ALL)
def test_experts_are_rows(format: DType) -> None:
    layout = RowLayout()
    assert layout.sections(format, (3, 5, 64)) == layout.sections(format, (15, 64))


def test_slices_of_rows_add_up() -> None:
    weights = np.random.default_rng(1).standard_normal((7, 64)).astype(np.float32)
    rows = quantize(weights, DType.I4A)
    whole = RowLayout().pack(DType.I4A, rows)
    slices = [RowLayout().pack(DType.I4A, rows.take(s)) for s in (slice(3), slice(3, 7))]
    for section, parts in zip(whole, zip(*slices, strict=True), strict=True):
        assert np.array_equal(section, np.concatenate(parts))


def test_rows_of_another_format_are_refused() -> None:
    weights = np.ones((2, 32), np.float32)
    with pytest.raises(ValueError, match="must be quantized"):
        RowLayout().pack(DType.I4S, weights)
    with pytest.raises(ValueError, match="can't be packed"):
        RowLayout().pack(DType.I4S, quantize(weights, DType.I8B))
