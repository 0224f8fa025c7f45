"""The reference of activation quantization, by what its results must be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from llmc.ir.tiles import BLOCK
from quantized_rows import quantize_rows

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 100))
FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
MATRICES = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=FLOATS))


@given(MATRICES)
def test_activation_rows(x: np.ndarray) -> None:
    q, scale, total = quantize_rows(x)
    t, k = x.shape
    blocks = q.reshape(t, -1, BLOCK).astype(np.float64) * scale[..., None]
    values = blocks.reshape(t, -1)[:, :k]
    step = scale.repeat(BLOCK, axis=1)[:, :k]
    assert (np.abs(values - x) <= 0.501 * step + 1e-30).all()
    assert (q[:, k:] == 0).all()
    # The sum is exact up to one float32 rounding of the product.
    assert np.allclose(total, blocks.sum(axis=2), rtol=1e-6, atol=0)


def test_activation_rows_of_zeros() -> None:
    x = np.random.default_rng(9).standard_t(6, (3, 64)).astype(np.float32)
    x[1, :32] = 0
    q, scale, total = quantize_rows(x)
    assert scale[1, 0] == 0
    assert (q[1, :32] == 0).all()
    assert total[1, 0] == 0
    assert (np.abs(q[0].reshape(-1, BLOCK)).max(axis=1) == 127).all()
