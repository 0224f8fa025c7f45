"""Plain element types: bfloat16 by torch's rounding."""

import numpy as np
import pytest
from llmc.weights.formats.elements import from_bf16, to_bf16


def test_bf16_rounds_half_to_even_like_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate(
        [
            np.random.default_rng(10).standard_t(6, 12288).astype(np.float32) * np.float32(0.02),
            np.array([1.00390625, 1.01171875, -1.00390625, 3.3e38, 0, 1e-40], np.float32),
        ]
    )
    expected = torch.from_numpy(values).bfloat16()
    assert (to_bf16(values) == expected.view(torch.uint16).numpy()).all()
    assert (from_bf16(to_bf16(values)) == expected.float().numpy()).all()
