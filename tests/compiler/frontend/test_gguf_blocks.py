"""Stored blocks as number formats: the values that the gguf package gives the same bytes."""

import gguf
import numpy as np
import pytest
from llmc.compiler.frontend.gguf_blocks import UNPACK
from llmc.ir.types import DType
from llmc.weights.formats.registry import (
    NEAREST,
    dequantize,
    format_of,
    formats_that_hold,
    quantize,
)

pytestmark = pytest.mark.fast

Kind = gguf.GGMLQuantizationType
HALVES = {
    "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
    "q3_k": (108,), "q2_k": (80, 82), "mxfp4": (), "nvfp4": (), "iq1_m": (), "tq1_0": (52,),
    "tq2_0": (64,),
}  # fmt: skip
"""Bytes of a block at which float16 numbers begin (0 where nothing is said)."""
SAME_BITS = {
    "q4_0": DType.I4S, "q4_1": DType.I4A, "q4_k": DType.I4K, "q5_0": DType.I5S, "q5_1": DType.I5A,
    "q5_k": DType.I5K, "q6_k": DType.I6K, "q8_0": DType.I8B,
}  # fmt: skip

NEAR = [
    name
    for name in NEAREST
    if name.upper() in Kind.__members__ and name not in ("iq1_m", "nvfp4", "tq2_0")
]
"""Those of GGUF; of those left out random bytes aren't numbers."""


def random_rows(name: str, rows: int, blocks: int) -> tuple[np.ndarray, int]:
    """Bytes u8 [rows, blocks * bytes] of any codes and factors, and columns."""
    rng = np.random.default_rng(7)
    size, nbytes = gguf.GGML_QUANT_SIZES[Kind[name.upper()]]
    raw = rng.integers(0, 256, (rows, blocks, nbytes), np.uint8)
    for at in HALVES.get(name, (0,)):
        numbers = rng.normal(size=(rows, blocks, 1)) * 0.01
        raw[..., at : at + 2] = numbers.astype("<f2").view(np.uint8)
    if name == "mxfp4":
        raw[..., 0] = rng.integers(128 - 24, 128 + 15, raw.shape[:2])
    return raw.reshape(rows, -1), size * blocks


@pytest.mark.parametrize("name", UNPACK)
def test_values_are_those_of_the_gguf_package(name: str) -> None:
    raw, k = random_rows(name, 7, 3)
    expected = gguf.quants.dequantize(raw, Kind[name.upper()])
    stored = UNPACK[name](raw, k)
    held = formats_that_hold(name)
    assert held
    for dtype in held:
        rows = format_of(dtype).hold(stored)
        assert rows is not None
        assert rows.format.dtype is dtype
        np.testing.assert_array_equal(dequantize(rows), expected)


@pytest.mark.parametrize("name", SAME_BITS)
def test_the_best_format_is_as_small_as_the_blocks(name: str) -> None:
    assert formats_that_hold(name)[0] is SAME_BITS[name]


def test_powers_of_two_beyond_float16_are_not_held() -> None:
    raw, k = random_rows("mxfp4", 2, 3)
    raw[1, 17] = 250
    assert format_of(DType.I5S).hold(UNPACK["mxfp4"](raw, k)) is None


@pytest.mark.parametrize("name", NEAR)
def test_the_nearest_format_changes_little(name: str) -> None:
    raw, _ = random_rows(name, 32, 4)
    values = gguf.quants.dequantize(raw, Kind[name.upper()])
    error = dequantize(quantize(values, NEAREST[name])) - values
    assert not formats_that_hold(name)
    assert np.sqrt((error**2).sum() / (values**2).sum()) < 0.02
