"""`i4a`: minima, and the blocks of Q4_0 with one."""

import numpy as np
from llmc.ir.types import DType
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, format_of, quantize

I4A = format_of(DType.I4A)


def test_constant_blocks_are_exact() -> None:
    w = np.full((2, 64), -1.375, np.float32)
    assert (dequantize(quantize(w, DType.I4A)) == w).all()


def test_it_holds_symmetric_blocks_with_a_minimum() -> None:
    w = np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32)
    symmetric = quantize(w, DType.I4S)
    held = I4A.hold(symmetric)
    assert held is not None
    assert held.format is I4A
    assert held.mins is not None
    assert (held.mins == -8 * symmetric.scales.astype(np.float64)).all()
    assert (dequantize(held) == dequantize(symmetric)).all()


def test_a_minimum_beyond_float16_is_not_held() -> None:
    codes, scales = np.full((1, 32), 9, np.uint8), np.array([[9000.0]], np.float16)
    assert I4A.hold(Quantized(format_of(DType.I4S), codes, scales, None, 32)) is None
