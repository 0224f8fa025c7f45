"""`i8c`: one scale a row, whatever the row's length."""

import numpy as np
from llmc.ir.types import DType
from llmc.weights.formats.registry import quantize


def test_codes_are_the_nearest_of_255_steps() -> None:
    w = np.random.default_rng(4).normal(size=(7, 50)).astype(np.float32)
    q = quantize(w, DType.I8C)
    scale = np.abs(w.astype(np.float64)).max(axis=1) / 127
    np.testing.assert_allclose(q.scales, scale, rtol=1e-6)
    assert (np.abs(q.codes).max(axis=1) == 127).all()
    error = np.abs(q.codes[:, :50] * scale[:, None] - w)
    assert (error <= 0.5001 * scale[:, None]).all()
