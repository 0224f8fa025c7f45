"""Packed panels: exact round trips, the documented bytes, slices that fit together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.codegen.cpu.packing import PACKED, pack, packed_bytes, panel_bytes, unpack
from llmc.ir.tiles import BLOCK, PANEL, round_up
from llmc.ir.types import DType
from llmc.weights.formats.elements import from_bf16, to_bf16
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import FORMATS, format_of, is_quantized, quantize

pytestmark = pytest.mark.fast

QUANTIZED = list(FORMATS)
FLOATS = [DType.F32, DType.BF16]


def random_rows(format: DType, n: int, k: int, seed: int = 0) -> Quantized:
    """Codes over their whole range (also -128, which GGUF files can hold) and random scales."""
    rng = np.random.default_rng(seed)
    low, high, dtype = (-128, 128, np.int8) if "8" in format else (0, 16, np.uint8)
    codes = rng.integers(low, high, (n, round_up(k, BLOCK)), np.int16).astype(dtype)
    codes[:, k:] = format_of(format).zero_code
    blocks = round_up(k, BLOCK) // 32
    if format is DType.I8C:
        return Quantized(format_of(format), codes, rng.normal(size=n).astype(np.float32), None, k)
    scales = rng.normal(size=(2, n, blocks)).astype(np.float16)
    return Quantized(format_of(format), codes, scales[0], scales[1] if format == "i4a" else None, k)


def assert_equal(a: Quantized, b: Quantized):
    assert a.format == b.format
    assert a.k == b.k
    assert a.codes.dtype == b.codes.dtype
    np.testing.assert_array_equal(a.codes, b.codes)
    assert a.scales.dtype == b.scales.dtype
    np.testing.assert_array_equal(a.scales, b.scales)
    assert (a.mins is None) == (b.mins is None)
    if a.mins is not None and b.mins is not None:
        np.testing.assert_array_equal(a.mins, b.mins)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(QUANTIZED), st.integers(1, 70), st.integers(1, 200), st.integers(0, 9))
def test_quantized_rows_come_back_exactly(format: DType, n: int, k: int, seed: int):
    rows = random_rows(format, n, k, seed)
    packed = pack(format, rows)
    assert packed.shape == (-(-n // PANEL), panel_bytes(format, k))
    assert packed.nbytes == packed_bytes(format, n, k)
    assert panel_bytes(format, k) % 64 == 0
    back = unpack(format, packed, n, k)
    assert isinstance(back, Quantized)
    assert_equal(back, rows)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FLOATS), st.integers(1, 70), st.integers(1, 100), st.integers(0, 9))
def test_float_rows_come_back_exactly(format: DType, n: int, k: int, seed: int):
    rows = np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)
    expected = rows if format is DType.F32 else from_bf16(to_bf16(rows))
    packed = pack(format, rows)
    assert packed.shape == (-(-n // PANEL), panel_bytes(format, k))
    np.testing.assert_array_equal(unpack(format, packed, n, k), expected)
    if format is DType.BF16:
        np.testing.assert_array_equal(pack(format, to_bf16(rows)), packed)


@pytest.mark.parametrize("format", PACKED)
def test_slices_of_rows_make_the_same_bytes_as_the_whole(format: DType):
    rows = np.random.default_rng(1).normal(size=(150, 96)).astype(np.float32)
    whole = quantize(rows, format) if is_quantized(format) else rows
    packed = pack(format, whole)
    for start, stop in ((0, 16), (16, 112), (112, 150)):
        part = whole.take(slice(start, stop)) if isinstance(whole, Quantized) else rows[start:stop]
        np.testing.assert_array_equal(pack(format, part), packed[start // 16 : -(-stop // 16)])


def element_bytes(format: DType, k: int, lane: int, at: int) -> tuple[int, int]:
    """Byte and shift of a code in its panel, written down from the docstring of packing.py."""
    block, inner = divmod(at, 32)
    chunk, i = divmod(inner, 4)
    start = {
        "i8c": 64 + 512 * block,
        "i8b": (64 + 2 * 512) * (block // 2) + 64 + 512 * (block % 2),
        "i4s": (64 + 2 * 256) * (block // 2) + 64 + 256 * (block % 2),
        "i4a": (64 + 256) * block + 64,
    }[format]
    if "8" in format:
        return start + 64 * chunk + 4 * lane + i, 0
    return start + 64 * (chunk % 4) + 4 * lane + i, 4 * (chunk // 4)


@pytest.mark.parametrize("format", QUANTIZED)
def test_codes_lie_where_the_documentation_says(format: DType):
    n, k = 40, 160
    rows = random_rows(format, n, k, 3)
    packed = pack(format, rows)
    rng = np.random.default_rng(4)
    for row, at in zip(rng.integers(0, n, 200), rng.integers(0, k, 200), strict=True):
        byte, shift = element_bytes(format, k, row % PANEL, at)
        stored = packed[row // PANEL, byte]
        expected = int(rows.codes[row, at])
        assert (stored == expected + 128) if "8" in format else (stored >> shift & 15 == expected)


def test_scales_lie_where_the_documentation_says():
    for format, stride in ((DType.I8B, 64 + 1024), (DType.I4S, 64 + 512)):
        rows = random_rows(format, 16, 96, 5)
        packed = pack(format, rows)[0]
        for block in range(3):
            at = stride * (block // 2) + 32 * (block % 2)
            np.testing.assert_array_equal(
                packed[at : at + 32].view(np.float16), rows.scales[:, block]
            )
    rows = random_rows(DType.I4A, 16, 64, 6)
    assert rows.mins is not None
    packed = pack(DType.I4A, rows)[0].reshape(2, 320)
    np.testing.assert_array_equal(packed[1, :32].view(np.float16), rows.scales[:, 1])
    np.testing.assert_array_equal(packed[1, 32:64].view(np.float16), rows.mins[:, 1])
    rows = random_rows(DType.I8C, 16, 64, 7)
    np.testing.assert_array_equal(pack(DType.I8C, rows)[0, :64].view(np.float32), rows.scales)


def test_floats_lie_where_the_documentation_says():
    rows = np.random.default_rng(8).normal(size=(16, 5)).astype(np.float32)
    np.testing.assert_array_equal(pack(DType.F32, rows)[0].view(np.float32).reshape(5, 16), rows.T)
    bits = np.zeros((16, 6), np.uint16)
    bits[:, :5] = to_bf16(rows)
    expected = bits.reshape(16, 3, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(
        pack(DType.BF16, rows)[0].view(np.uint16).reshape(3, 16, 2), expected
    )


@pytest.mark.parametrize("format", QUANTIZED)
def test_padding_rows_mean_zero(format: DType):
    back = unpack(format, pack(format, random_rows(format, 3, 32)), 16, 32)
    assert isinstance(back, Quantized)
    assert (back.scales[3:] == 0).all()
    assert (back.scales[:3] != 0).all()
    if back.mins is not None:
        assert (back.mins[3:] == 0).all()


def test_rows_of_another_format_are_refused():
    rows = np.ones((16, 32), np.float32)
    with pytest.raises(ValueError, match="i4s rows can't be packed as i4a"):
        pack(DType.I4A, quantize(rows, DType.I4S))
    with pytest.raises(ValueError, match="must be quantized"):
        pack(DType.I8C, rows)


def test_matrices_wider_than_the_kernels_take_are_refused():
    with pytest.raises(LlmcError) as caught:
        packed_bytes(DType.I4A, 16, (1 << 18) + 1)
    assert caught.value.id == "LLMC-E0416"
    assert packed_bytes(DType.I4A, 16, 1 << 18) == (1 << 13) * 320
