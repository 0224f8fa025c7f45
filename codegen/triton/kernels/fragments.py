"""8-bit codes of weight rows: from memory to operands of tensor cores.

In memory (`layout.py`) rows of codes are in *fragment order*: of each 64 columns, column
16 s + 8 h + 2 q + j stands at place 16 q + 4 s + 2 h + j (q, s < 4; h, j < 2). Tensor cores
multiply 16 columns at a time, of which thread q of a row feeds those of its (h, j). So what a
thread feeds in four steps are 16 bytes in a row, loaded at once; in columns' own order it would
load pairs.

NATURAL says in which order a tile's columns are multiplied: True for `wgmma` and `tcgen05`, which
take x from shared memory and so in its own order; False for `mma.sync` (SM 80, 86, 89, 120), where
Triton gives a thread 4 columns in a row and x is in registers too: both operands take the order
(s, q, h, j), in which no code and no element of x moves to another thread.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def e4m3_instructions():
    """Four bytes $2 to bf16 pairs $0 and $1: a byte is the high one of 16 bits, then its exponent
    and mantissa move 4 bits down, behind the sign."""
    text = "{ .reg .b32 p, q, r, s, scale, zero;\n"
    text += "mov.b32 scale, 0x7b807b80; mov.b32 zero, 0x80008000;\n"  # 2^120 and -0, twice
    text += "prmt.b32 p, $2, 0, 0x1404; prmt.b32 q, $2, 0, 0x3424;\n"
    for out, source, moved in ((0, "p", "r"), (1, "q", "s")):
        text += f"shr.u32 {moved}, {source}, 4; and.b32 {moved}, {moved}, 0x07f007f0;\n"
        text += f"lop3.b32 {moved}, {source}, 0x80008000, {moved}, 0xea;\n"  # (a & b) | c
        text += f"fma.rn.bf16x2 ${out}, {moved}, scale, zero;\n"
    return text + "}"


@triton.jit
def e4m3_to_bf16(codes, PORTABLE: tl.constexpr):
    """bf16 values of e4m3 bits u8, exact: the bits moved to bf16's places are the value / 2^120.

    NaN isn't recognised: weights have none.
    """
    if PORTABLE:
        wide = codes.to(tl.uint16)
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 4)
        values = bits.to(tl.bfloat16, bitcast=True) * tl.full([], 1.329227995784916e36, tl.bfloat16)
    else:
        values = tl.inline_asm_elementwise(
            e4m3_instructions(), "=&r,=&r,r", [codes],
            dtype=tl.bfloat16, is_pure=True, pack=4,
        )  # fmt: skip
    return values


@triton.jit
def e4m3_to_f32(codes):
    """The same in f32."""
    wide = codes.to(tl.uint32)
    bits = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
    return bits.to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def in_column_order(codes, NATURAL: tl.constexpr):
    """A tile [N, K] of codes, loaded as it lies in memory; K is a multiple of 64."""
    parts = tl.reshape(codes, (codes.shape[0], codes.shape[1] // 64, 4, 4, 2, 2))  # q, s, h, j
    if NATURAL:
        parts = tl.permute(parts, (0, 1, 3, 4, 2, 5))
    else:
        parts = tl.permute(parts, (0, 1, 3, 2, 4, 5))
    return tl.reshape(parts, (codes.shape[0], codes.shape[1]))


@triton.jit
def in_register_order(x):
    """x [K, T] with columns in the order (s, q, h, j): for codes that aren't NATURAL."""
    parts = tl.permute(tl.reshape(x, (x.shape[0] // 16, 2, 4, 2, x.shape[1])), (0, 2, 1, 3, 4))
    return tl.reshape(parts, (x.shape[0], x.shape[1]))


@triton.jit
def column_of(place):
    """The column that stands at `place` of a row of codes."""
    return (
        place // 64 * 64
        + place // 4 % 4 * 16
        + place // 2 % 2 * 8
        + place // 16 % 4 * 2
        + place % 2
    )
