"""Weights of the triton target: bytes mean what the format says, and take no more than it does."""

import numpy as np
import pytest
from llmc.codegen.triton.layout import TRITON_LAYOUT, row_stride, unpack
from llmc.ir.tiles import PANEL
from llmc.ir.types import DType
from llmc.weights.formats.elements import rounded
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import FORMATS, dequantize, format_of, is_quantized, quantize
from llmc.weights.layout import section_offsets, total_bytes

pytestmark = pytest.mark.fast

PLAIN = (DType.F32, DType.BF16, DType.F16)
ALL = (*PLAIN, *FORMATS)
SHAPES = [(1, 32), (5, 33), (17, 96), (33, 70), (16, 576), (3, 640), (2, 7)]


def stored(
    dtype: DType, matrices: list[np.ndarray | Quantized], shape: tuple[int, ...]
) -> np.ndarray:
    """The bytes of `matrices` as a file has them, what is between sections poisoned."""
    parts = [TRITON_LAYOUT.pack(dtype, rows) for rows in matrices]
    sizes = TRITON_LAYOUT.sections(dtype, shape)
    data = np.full(total_bytes(sizes), 0xA5, np.uint8)
    for at, size, section in zip(
        section_offsets(sizes), sizes, zip(*parts, strict=True), strict=True
    ):
        joined = np.concatenate(section)
        assert joined.nbytes == size
        data[at : at + size] = joined
    return data


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("dtype", ALL)
def test_bytes_stand_for_the_values(dtype: DType, n: int, k: int) -> None:
    values = weights(n * k, n, k)
    rows = quantize(values, dtype) if is_quantized(dtype) else values
    expected = dequantize(rows) if isinstance(rows, Quantized) else values
    if dtype in (DType.BF16, DType.F16):
        expected = rounded(values, dtype)
    assert np.array_equal(unpack(dtype, (n, k), stored(dtype, [rows], (n, k))), expected)


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_code_and_number_survives(dtype: DType) -> None:
    rng, format, n, k = np.random.default_rng(3), format_of(dtype), 48, 320
    rows = quantize(weights(0, n, k), dtype)
    codes = rng.integers(0, 1 << format.bits, rows.codes.shape, np.uint8).view(format.code_type)
    rows = Quantized(format, codes, rows.scales, rows.mins, k, rows.factors, rows.min_factors)
    found = unpack(dtype, (n, k), stored(dtype, [rows], (n, k)))
    assert np.array_equal(found, dequantize(rows), equal_nan=format.float_codes)


@pytest.mark.parametrize("n", [16, 21])
@pytest.mark.parametrize("dtype", ALL)
def test_experts_are_behind_one_another(dtype: DType, n: int) -> None:
    values = weights(n, 3, n, 96)
    rows = [quantize(v, dtype) if is_quantized(dtype) else v for v in values]
    found = unpack(dtype, (3, n, 96), stored(dtype, rows, (3, n, 96)))
    for i, each in enumerate(rows):
        alone = unpack(dtype, (n, 96), stored(dtype, [each], (n, 96)))
        assert np.array_equal(found[i], alone)


@pytest.mark.parametrize("dtype", ALL)
def test_slices_of_panels_add_up(dtype: DType) -> None:
    values = weights(5, 2 * PANEL + 3, 64)
    rows = quantize(values, dtype) if is_quantized(dtype) else values

    def cut(part: slice) -> np.ndarray | Quantized:
        return rows.take(part) if isinstance(rows, Quantized) else rows[part]

    whole = TRITON_LAYOUT.pack(dtype, rows)
    slices = [TRITON_LAYOUT.pack(dtype, cut(s)) for s in (slice(PANEL), slice(PANEL, None))]
    for section, parts in zip(whole, zip(*slices, strict=True), strict=True):
        assert np.array_equal(section, np.concatenate(parts))


# What the formats' own table promises (weights/formats/registry.py): bits of the code, and of
# scales, minima and factors by the weights that share them, factors as whole bytes.
BITS = {
    DType.F8C: 8 + 32 / 1024, DType.I8C: 8 + 32 / 1024, DType.I8B: 8.5,
    DType.I6K: 6 + 8 / 16 + 16 / 256, DType.I5S: 5.5,
    DType.I5A: 6.0, DType.I5K: 5 + 16 / 32 + 32 / 256, DType.I4S: 4.5, DType.I4A: 5.0,
    DType.I4K: 4 + 16 / 32 + 32 / 256,
}  # fmt: skip


@pytest.mark.parametrize("dtype", FORMATS)
def test_memory_is_that_of_the_format(dtype: DType) -> None:
    nbytes = sum(TRITON_LAYOUT.sections(dtype, (512, 1024)))
    assert nbytes * 8 / (512 * 1024) == BITS[dtype]


@pytest.mark.parametrize("dtype", PLAIN)
@pytest.mark.parametrize("k", [1, 7, 8, 33])
def test_plain_rows_start_at_16_bytes(dtype: DType, k: int) -> None:
    assert row_stride(dtype, k) * dtype.itemsize % 16 == 0
    assert 0 <= row_stride(dtype, k) - k < 16 // dtype.itemsize


def test_rows_of_another_format_are_refused() -> None:
    values = np.ones((2, 32), np.float32)
    with pytest.raises(ValueError, match="must be quantized"):
        TRITON_LAYOUT.pack(DType.I4S, values)
    with pytest.raises(ValueError, match="can't be packed"):
        TRITON_LAYOUT.pack(DType.I4S, quantize(values, DType.I8B))
