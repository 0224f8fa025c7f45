"""Panels of 16 weight rows: 8-bit codes from memory to operands of tensor cores.

In memory (`layout.py`) a panel is blocks of 32 columns, and a block is 32 times 16 bytes: those of
lane 4 g + t are `[half, r, h, j]`, columns 16 half + 8 h + 2 t + j of rows 8 r + g. Tensor cores
multiply 16 rows and 16 columns at a time, of which a lane feeds just these, so a lane loads its 16
bytes at once and no code moves to another one.

NATURAL says in which order of columns: True for `wgmma` and `tcgen05`, which take x from shared
memory and so in its own order; False for `mma.sync` (SM 80, 86, 89, 120), where Triton gives a lane
4 columns in a row and x is in registers too: both operands take the order (t, h, j).

GATED weights alternate between 16 rows of the gate and 16 of the up projection. A tile takes from
each 8 and 8: a lane gets rows r and r + 8 of 16, so it has both halves of an output.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def e4m3_to_bf16(codes):
    """bf16 values of e4m3 bits u8, exact: the bits moved to bf16's places are the value / 2^120.

    NaN isn't recognised: weights have none.
    """
    wide = codes.to(tl.uint16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 4)
    return bits.to(tl.bfloat16, bitcast=True) * tl.full([], 1.329227995784916e36, tl.bfloat16)


@triton.jit
def rows_of_tile(tile, N: tl.constexpr, GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The weight row of each row of a tile, i32 [BLOCK_N]; past the end the last one again."""
    row = tl.arange(0, BLOCK_N)
    if GATED:
        row = row // 32 * 32 + row // 8 % 2 * 16 + row // 16 % 2 * 8 + row % 8
    return tl.minimum(tile * BLOCK_N + row, N - 1)


@triton.jit
def panel_codes(
    w_ptr, panel, k, K: tl.constexpr, GATED: tl.constexpr, NATURAL: tl.constexpr,
    BLOCK_K: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """8-bit codes [16 * panels, BLOCK_K] of columns k .. k + BLOCK_K of `panel` i64 [panels].

    Rows are in the order of `rows_of_tile`, columns in x's own or, if not NATURAL, in that of
    `in_register_order`. Of blocks past K's (TAIL) codes are 0.
    """
    BLOCKS: tl.constexpr = (K + 31) // 32
    COUNT: tl.constexpr = panel.shape[0]
    at = k * 16 + tl.arange(0, BLOCK_K * 16)
    pointers = w_ptr + (panel * (BLOCKS * 512))[:, None] + at[None, :]
    if TAIL:
        codes = tl.load(pointers, mask=(at < BLOCKS * 512)[None, :], other=0)
    else:
        codes = tl.load(pointers)
    if GATED:
        codes = tl.reshape(codes, (COUNT // 2, 2, BLOCK_K // 32, 8, 4, 2, 2, 2, 2))
        if NATURAL:
            codes = tl.permute(codes, (0, 6, 1, 3, 2, 5, 7, 4, 8))
        else:
            codes = tl.permute(codes, (0, 6, 1, 3, 2, 5, 4, 7, 8))
    else:
        codes = tl.reshape(codes, (COUNT, BLOCK_K // 32, 8, 4, 2, 2, 2, 2))
        if NATURAL:
            codes = tl.permute(codes, (0, 5, 2, 1, 4, 6, 3, 7))
        else:
            codes = tl.permute(codes, (0, 5, 2, 1, 4, 3, 6, 7))
    return tl.reshape(codes, (COUNT * 16, BLOCK_K))


@triton.jit
def in_register_order(x):
    """x [K, T], of each 16 columns 8 h + 2 t + j at place 4 t + 2 h + j: how panels' lanes lie."""
    parts = tl.permute(tl.reshape(x, (x.shape[0] // 16, 2, 4, 2, x.shape[1])), (0, 2, 1, 3, 4))
    return tl.reshape(parts, (x.shape[0], x.shape[1]))
