"""A norm quantizes its rows itself."""
# ruff: noqa: E501 (lines of graph text)

import pytest
from llmc.passes.fuse_norm_quantize import fuse_norm_quantize
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast

HEAD = (
    "graph main: QUANTIZED\ninput x: f32[T, 32]\ninput r: f32[T, 32]\nconst @w: f32[32] = @w:f32\n"
)
ROWS = "i8[T, 32], {}: f32[T, 1], {}: f32[T, 1]"
EXACT = 0.0
"""The fused op calls the same references in the same order."""


def test_a_norm_that_only_quantization_reads() -> None:
    check(
        fuse_norm_quantize,
        f"{HEAD}%0: f32[T, 32] = rms_norm(x, @w)\n"
        f"%1: {ROWS.format('%2', '%3')} = quantize_rows(%0)\noutput %1\noutput %2\noutput %3",
        """
        graph main: QUANTIZED
        input x: f32[T, 32]
        input r: f32[T, 32]
        const @w: f32[32] = @w:f32
        %0: i8[T, 32], %1: f32[T, 1], %2: f32[T, 1] = rms_norm(x, @w) {quantize=True}
        output %0
        output %1
        output %2
        """,
        EXACT,
    )


def test_a_fused_sum_stays_the_first_result() -> None:
    check(
        fuse_norm_quantize,
        f"{HEAD}%0: f32[T, 32], %1: f32[T, 32] = rms_norm(x, r, @w) {{add=True}}\n"
        f"%2: {ROWS.format('%3', '%4')} = quantize_rows(%1)\noutput %0\noutput %2\noutput %4",
        """
        graph main: QUANTIZED
        input x: f32[T, 32]
        input r: f32[T, 32]
        const @w: f32[32] = @w:f32
        %0: f32[T, 32], %1: i8[T, 32], %2: f32[T, 1], %3: f32[T, 1] = rms_norm(x, r, @w) {add=True, quantize=True}
        output %0
        output %1
        output %3
        """,
        EXACT,
    )


@pytest.mark.parametrize(
    ("norm", "extra"),
    [
        ("%0: f32[T, 32] = rms_norm(x, @w)", "%4: f32[T, 32] = neg(%0)\noutput %4"),
        ("%0: f32[T, 32] = rms_norm(x, @w)", "output %0"),
        ("%0: f32[T, 32], %5: f32[T, 32] = rms_norm(x, r, @w) {add=True}", "output %5"),
        ("%0: f32[T, 32] = silu(x)", ""),
    ],
)
def test_rows_that_something_else_reads_stay(norm: str, extra: str) -> None:
    """Another reader, the graph's output, the sum instead of the norm, no norm at all."""
    quantize = f"%1: {ROWS.format('%2', '%3')} = quantize_rows(%0)"
    check_declined(fuse_norm_quantize, f"{HEAD}{norm}\n{quantize}\n{extra}\noutput %1")
