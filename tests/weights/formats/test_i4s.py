"""`i4s`: the element of largest magnitude has the side of -8."""

import numpy as np
import pytest
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize, quantize


@pytest.mark.parametrize("sign", [1, -1])
def test_the_scale_has_the_sign_that_gives_the_largest_the_longer_side(sign: int) -> None:
    w = np.random.default_rng(2).uniform(-0.5, 0.5, (1, 32)).astype(np.float32)
    w[0, 5] = sign
    q = quantize(w, DType.I4S)
    assert np.sign(q.scales[0, 0]) == -sign
    assert q.codes[0, 5] <= 1
    assert abs(dequantize(q)[0, 5] - sign) < 0.1
