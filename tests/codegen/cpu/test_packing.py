"""Packed panels: exact round trips, the documented bytes, slices that fit together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.codegen.cpu.packing import PACKED, pack, packed_bytes, panel_bytes, unpack
from llmc.ir.tiles import BLOCK, PANEL, round_up
from llmc.ir.types import DType
from llmc.weights.formats.elements import from_bf16, to_bf16
from llmc.weights.formats.number_format import Quantized, super_block_length
from llmc.weights.formats.registry import format_of, is_quantized, quantize

pytestmark = pytest.mark.fast

QUANTIZED = [dtype for dtype in PACKED if is_quantized(dtype)]
FLOATS = [DType.F32, DType.BF16]


def random_rows(format: DType, n: int, k: int, seed: int = 0) -> Quantized:
    """Codes over their whole range (also -128, which GGUF files can hold) and random scales."""
    rng = np.random.default_rng(seed)
    facts = format_of(format)
    low, high = (-128, 128) if facts.bits == 8 else (0, 1 << facts.bits)
    codes = rng.integers(low, high, (n, facts.padded(k)), np.int16).astype(facts.code_type)
    codes[:, k:] = facts.zero_code
    if format is DType.I8C:
        return Quantized(facts, codes, rng.normal(size=n).astype(np.float32), None, k)
    count = facts.super_blocks(k) if facts.has_super_blocks else facts.blocks(k)
    scales, mins = rng.normal(size=(2, n, count)).astype(np.float16)
    rows = Quantized(facts, codes, scales, mins if facts.has_mins else None, k)
    if not facts.has_super_blocks:
        return rows
    shape = n, facts.blocks(k)
    if not facts.has_mins:
        return replace(rows, factors=rng.integers(-128, 128, shape).astype(np.int8))
    f, g = (rng.integers(0, 64, shape).astype(np.uint8) for _ in range(2))
    return replace(rows, factors=f, min_factors=g)


def assert_equal(a: Quantized, b: Quantized):
    assert a.format == b.format
    assert a.k == b.k
    assert a.codes.dtype == b.codes.dtype
    np.testing.assert_array_equal(a.codes, b.codes)
    assert a.scales.dtype == b.scales.dtype
    np.testing.assert_array_equal(a.scales, b.scales)
    for name in ("mins", "factors", "min_factors"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


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


def block_start(format: DType, k: int, block: int) -> int:
    """Byte of a block's codes in its panel, written down from the docstring of packing.py."""
    size = 64 * format_of(format).bits
    blocks = round_up(k, BLOCK) // BLOCK
    length = super_block_length(blocks)
    match format:
        case "i8c":
            return 64 + size * block
        case "i8b" | "i5s" | "i4s":
            return (64 + 2 * size) * (block // 2) + 64 + size * (block % 2)
        case "i5a" | "i4a":
            return (64 + size) * block + 64
        case "i6k":
            head = round_up(32 * -(-blocks // length), 64)
            return head + (64 + 2 * size) * (block // 2) + 64 + size * (block % 2)
    side = 64 + round_up(16 * (length + (length + 1) // 2), 64)
    return (side + length * size) * (block // length) + side + size * (block % length)


def stored_code(panel: np.ndarray, format: DType, k: int, lane: int, at: int) -> int:
    """A code as the docstring of panel_codes.py says."""
    block, inner = divmod(at, 32)
    chunk, i = divmod(inner, 4)
    lines = panel[block_start(format, k, block) :]
    byte, bits = 4 * lane + i, format_of(format).bits
    if bits == 8:
        return int(lines[64 * chunk + byte]) - 128
    code = int(lines[64 * (chunk % 4) + byte]) >> (4 * (chunk // 4)) & 15
    if bits == 5:
        code += 16 * (int(lines[256 + byte]) >> chunk & 1)
    if bits == 6:
        code += 16 * (int(lines[256 + 64 * (chunk // 4) + byte]) >> (2 * (chunk % 4)) & 3)
    return code


@pytest.mark.parametrize("format", QUANTIZED)
@pytest.mark.parametrize("k", [160, 416])
def test_codes_lie_where_the_documentation_says(format: DType, k: int):
    n = 40
    rows = random_rows(format, n, k, 3)
    packed = pack(format, rows)
    rng = np.random.default_rng(4)
    for row, at in zip(rng.integers(0, n, 200), rng.integers(0, k, 200), strict=True):
        stored = stored_code(packed[row // PANEL], format, k, row % PANEL, at)
        assert stored == int(rows.codes[row, at])


@pytest.mark.parametrize("format", [DType.I4K, DType.I5K])
def test_factors_lie_where_the_documentation_says(format: DType):
    k = 32 * 18  # two super-blocks of 9
    rows = random_rows(format, 16, k, 5)
    panel = pack(format, rows)[0]
    assert rows.factors is not None
    assert rows.min_factors is not None
    assert rows.mins is not None
    for block in range(18):
        start = (64 + 256 + 9 * 64 * format_of(format).bits) * (block // 9)
        side, i = panel[start : start + 320], block % 9
        np.testing.assert_array_equal(side[:32].view(np.float16), rows.scales[:, block // 9])
        np.testing.assert_array_equal(side[32:64].view(np.float16), rows.mins[:, block // 9])
        first = side[64 + 16 * i : 80 + 16 * i]
        rest = side[64 + 16 * (9 + i // 2) : 80 + 16 * (9 + i // 2)] >> 4 * (i % 2) & 15
        np.testing.assert_array_equal(first & 63, rows.factors[:, block])
        np.testing.assert_array_equal(first >> 6 | rest << 2, rows.min_factors[:, block])


def test_factors_of_halves_lie_where_the_documentation_says():
    k = 32 * 13  # super-blocks of 7 and 6
    rows = random_rows(DType.I6K, 16, k, 6)
    panel = pack(DType.I6K, rows)[0]
    assert rows.factors is not None
    for i in range(2):
        np.testing.assert_array_equal(
            panel[32 * i : 32 * i + 32].view(np.float16), rows.scales[:, i]
        )
    for half in range(26):
        at = 64 + (64 + 2 * 384) * (half // 4) + 16 * (half % 4)
        np.testing.assert_array_equal(panel[at : at + 16].view(np.int8), rows.factors[:, half])


def test_scales_lie_where_the_documentation_says():
    for format, stride in ((DType.I8B, 64 + 1024), (DType.I5S, 64 + 640), (DType.I4S, 64 + 512)):
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


def test_formats_without_kernels_are_refused():
    with pytest.raises(LlmcError, match=r"E0231.*f8c"):
        panel_bytes(DType.F8C, 64)


def test_matrices_wider_than_the_kernels_take_are_refused():
    with pytest.raises(LlmcError) as caught:
        packed_bytes(DType.I4A, 16, (1 << 18) + 1)
    assert caught.value.id == "LLMC-E0416"
    assert packed_bytes(DType.I4A, 16, 1 << 18) == (1 << 13) * 320
