"""Weights on their way to L2 before a kernel may read anything else.

A kernel that may begin before the one in front of it has ended waits for that; only then are its
rows there. Its weights are there from the start, so the first steps of K of its own tile can be
asked for in the meantime. That is a hint: nothing is read, no result depends on it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .block_format import code_bits


@triton.jit
def ask_for_lines(pointers):
    """Has memory send the lines of 128 bytes at `pointers` to L2."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1];\n\tmov.u32 $0, 0;", "=r,l", [pointers.to(tl.int64)],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def prefetch_tile(
    w_ptr, tile, N: tl.constexpr, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Asks for the codes or numbers of the first STEPS tiles of K of weight rows `tile * BLOCK_N`
    and the BLOCK_N - 1 after it. Of weights in panels these are codes' low bits; the scales and
    high bits of blocks, which are fewer, aren't asked for. STEPS: a power of two.
    """
    if FORMAT == "plain" or FORMAT == "i8c" or FORMAT == "f8c":
        SIZE: tl.constexpr = w_ptr.dtype.element_ty.primitive_bitwidth // 8
        LINES: tl.constexpr = (STEPS * BLOCK_K * SIZE + 127) // 128
        row = tl.minimum(tile * BLOCK_N + tl.arange(0, BLOCK_N), N - 1).to(tl.int64)
        column = tl.minimum(tl.arange(0, LINES) * (128 // SIZE), W_STRIDE - 1)
        ask_for_lines(w_ptr + (row * W_STRIDE)[:, None] + column[None, :])
    else:
        BYTES: tl.constexpr = (512 if code_bits(FORMAT) == 8 else 256) * ((K + 31) // 32)
        LINES: tl.constexpr = STEPS * BLOCK_K // 32 * (4 if code_bits(FORMAT) == 8 else 2)
        panel = tile * (BLOCK_N // 16) + tl.arange(0, BLOCK_N // 16)
        panel = tl.minimum(panel, (N + 15) // 16 - 1).to(tl.int64)
        at = tl.minimum(tl.arange(0, LINES) * 128, BYTES - 1)
        ask_for_lines(w_ptr + (panel * BYTES)[:, None] + at[None, :])
