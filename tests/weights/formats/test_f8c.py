"""`f8c`: numbers as torch rounds them, one scale a row."""

import numpy as np
import torch
from llmc.ir.types import DType
from llmc.weights.formats.elements import FLOAT8, to_e4m3
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, quantize


def test_rounding_is_torchs_everywhere() -> None:
    """All numbers, all halves between two of them, what is next to these, and any others."""
    numbers = np.sort(FLOAT8["e4m3"][:127])
    halves = (numbers[1:] + numbers[:-1]) / 2
    exact = np.concatenate([numbers, halves])
    random = np.exp2(np.random.default_rng(0).uniform(-12, 8.8, 20000)).astype(np.float32)
    beside = [np.nextafter(exact, np.float32(toward)) for toward in (0, 500)]
    values = np.concatenate([exact, *beside, random, [1e-40]]).astype(np.float32)
    values = np.concatenate([values, -values])
    values = values[np.abs(values) <= 448]
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(to_e4m3(values), expected)


def test_numbers_beyond_the_range_become_the_largest() -> None:
    assert to_e4m3(np.array([449, 1e9, -3e38], np.float32)).tolist() == [0x7E, 0x7E, 0xFE]


def test_all_bits_are_torchs_numbers() -> None:
    bits = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(bits).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(FLOAT8["e4m3"], expected, equal_nan=True)
    assert np.array_equal(to_e4m3(expected[np.isfinite(expected)]), bits[np.isfinite(expected)])


def test_the_largest_of_a_row_is_the_largest_number() -> None:
    w = np.random.default_rng(4).normal(size=(7, 50)).astype(np.float32)
    q = quantize(w, DType.F8C)
    largest = np.abs(w.astype(np.float64)).max(axis=1)
    np.testing.assert_allclose(q.scales, largest / 448, rtol=1e-6)
    assert ((q.codes & 0x7F).max(axis=1) == 0x7E).all()
    scaled = torch.from_numpy(w / q.scales[:, None]).clamp(-448, 448)
    expected = scaled.to(torch.float8_e4m3fn).float().numpy() * q.scales[:, None]
    # Divided, not multiplied by the reciprocal: halves between two numbers may go the other way.
    different = dequantize(q) != expected
    assert different.mean() < 0.01
    assert (np.abs(dequantize(q) - w) <= np.abs(w) / 16 + largest[:, None] / 448 / 1024).all()


def test_a_code_that_is_no_number_is_seen() -> None:
    q = quantize(np.ones((2, 3), np.float32), DType.F8C)
    assert q.is_finite()
    codes = q.codes.copy()
    codes[1, 2] = 0xFF
    assert not Quantized(q.format, codes, q.scales, None, q.k).is_finite()
