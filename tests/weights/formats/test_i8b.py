"""`i8b`: blocks of Q8_0, and those of Q4_0 widened."""

import numpy as np
from llmc.ir.types import DType
from llmc.weights.formats.number_format import Quantized
from llmc.weights.formats.registry import dequantize, format_of, quantize

I8B = format_of(DType.I8B)


def test_it_holds_4_bit_blocks() -> None:
    w = np.random.default_rng(3).normal(size=(5, 96)).astype(np.float32)
    narrow = quantize(w, DType.I4S)
    held = I8B.hold(narrow)
    assert held is not None
    assert held.format is I8B
    assert held.codes.dtype == np.int8
    assert held.codes.min() == -8
    assert (dequantize(held) == dequantize(narrow)).all()


def test_codes_of_minus_128_keep_their_value() -> None:
    """Ours reach to -127; a GGUF file may have -128."""
    codes, scales = np.full((1, 32), -128, np.int8), np.array([[0.5]], np.float16)
    assert (dequantize(Quantized(I8B, codes, scales, None, 32)) == -64).all()
