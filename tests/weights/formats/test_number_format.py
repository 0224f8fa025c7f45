"""Quantized rows: taken, joined, padded, and as packed bytes."""

import numpy as np
import pytest
from llmc.ir.types import DType
from llmc.weights.formats.number_format import Quantized, concatenate
from llmc.weights.formats.registry import FORMATS, dequantize, format_of, quantize


def weights(seed: int, n: int, k: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(6, (n, k)).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_take_and_concatenate(format: DType) -> None:
    q = quantize(weights(5, 12, 96), format)
    order = np.array([3, 1, 11, 0])
    assert (dequantize(q.take(order)) == dequantize(q)[order]).all()
    halves = concatenate([q.take(slice(0, 5)), q.take(slice(5, 12))])
    assert (dequantize(halves) == dequantize(q)).all()
    padded = concatenate([q, format_of(format).zero_rows(3, 96)])
    assert (dequantize(padded)[12:] == 0).all()


def test_concatenate_refuses_mixed_formats() -> None:
    parts = [quantize(weights(6, 2, 64), f) for f in (DType.I4S, DType.I4A)]
    with pytest.raises(ValueError, match="agree"):
        concatenate(parts)


def test_non_finite_scales_are_seen() -> None:
    q = quantize(weights(8, 2, 64), DType.I4A)
    scales = q.scales.copy()
    scales[1, 0] = np.nan
    assert q.is_finite()
    assert not Quantized(q.format, q.codes, scales, q.mins, q.k).is_finite()


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_packed_codes(format: DType, unsigned: bool) -> None:
    """Two's complement or half the range added, unless they are floats or count up from a
    minimum."""
    facts, q = format_of(format), quantize(weights(9, 6, 64), format)
    packed = facts.packed(q.codes, unsigned=unsigned).astype(np.int64)
    bits = 4 if facts.bits == 4 else 8
    assert packed.shape == (6, 64 * bits // 8)
    stored = packed
    if bits == 4:
        stored = np.stack((packed % 16, packed // 16), -1).reshape(6, 64)
    half = 2 ** (bits - 1)
    fixed = facts.has_mins or facts.float_codes
    numbers = stored if fixed else stored - half
    if not unsigned and not fixed:
        numbers = (stored + half) % (2 * half) - half
    assert len(np.unique(numbers)) > 10
    assert (numbers == q.codes.astype(np.int64) - facts.zero_code).all()
