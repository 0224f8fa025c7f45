"""The interpreter's copy of kernels computes, and leaves the copy that is compiled alone."""

import os

import pytest
import torch

pytest.importorskip("triton")

from interpreted_kernels import interpreted_source

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def square(x):
    return x * x

@triton.jit
def squares(x_ptr, out_ptr, n, BLOCK: tl.constexpr, SUM: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = square(tl.load(x_ptr + at, mask=at < n, other=0).to(tl.float32))
    if SUM:
        tl.store(out_ptr + tl.program_id(0), tl.sum(x, axis=0))
    else:
        tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask=at < n)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generated_source_is_interpreted(dtype: torch.dtype) -> None:
    x = torch.randn(37, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = torch.full((40,), float("nan"), dtype=dtype)
    kernels = interpreted_source(SOURCE, "squares")
    kernels.squares[(3,)](x, out, 37, BLOCK=16, SUM=False)
    # The product of two bf16 numbers is exact in f32, so both round once.
    assert torch.equal(out[:37], x * x)
    assert out[37:].isnan().all()


def test_the_language_s_own_functions_are_interpreted() -> None:
    x = torch.arange(1.0, 6.0)
    sums = torch.full((2,), float("nan"))
    interpreted_source(SOURCE, "sums").squares[(2,)](x, sums, 5, BLOCK=4, SUM=True)
    assert sums.tolist() == [30.0, 25.0]


def test_nothing_else_is_interpreted() -> None:
    from triton import knobs

    interpreted_source(SOURCE, "others")
    assert "TRITON_INTERPRET" not in os.environ
    assert not knobs.runtime.interpret
