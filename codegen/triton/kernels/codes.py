"""Packed codes of 4, 5 and 6 bits as bf16 numbers, less the format's zero code; all exact.

In: bytes of two codes and, of 5 or 6 bits, the bytes of their high bits, as a lane of
`codegen/triton/mma_panels.py` has them. Out: the numbers of the low and of the high halves of
bytes. Instructions for four bytes at a time: a code's bits become the last mantissa bits of
128 + code, which bf16 holds up to 255, and 128 + zero code is subtracted.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .block_format import code_bits, zero_code


@triton.constexpr_function
def high_shift(BITS, ROW, HALF, COLUMN):
    """Where in its byte a code's high bits begin."""
    return 4 * (COLUMN // 2) + 2 * HALF + ROW if BITS == 5 else 4 * ROW + 2 * HALF


@triton.constexpr_function
def taken_bits(FORMAT, ROW, HALF, PAIR):
    """Instructions: register r has the high bits of codes 2 * PAIR and one up at bits 4 and 20."""
    bits = code_bits(FORMAT)
    source = "h" if bits == 5 or PAIR == 0 else "k"
    left = 4 - high_shift(bits, ROW, HALF, 2 * PAIR)
    if left == 0:
        return f"mov.b32 r, {source};"
    return f"{'shl' if left > 0 else 'shr'}.b32 r, {source}, {abs(left)};"


@triton.constexpr_function
def instructions(FORMAT, ROW):
    """Four bytes $4 (of `ROW` 0 or 1, with high bits $5) to pairs $0, $1 and, high, $2, $3."""
    bits = code_bits(FORMAT)
    zero = f"0x{(0xC300 + zero_code(FORMAT)) * 0x10001:08x}"
    text = "{ .reg .b32 p, q, h, k, r, one, zero;\n"
    text += f"mov.b32 one, 0x3f803f80; mov.b32 zero, {zero};\n"
    text += "prmt.b32 p, $4, 0, 0x4140; prmt.b32 q, $4, 0, 0x4342;\n"
    if bits > 4:
        text += "prmt.b32 h, $5, 0, 0x4140;\n"
    if bits == 6:
        text += "prmt.b32 k, $5, 0, 0x4342;\n"
    mask = "0x00100010" if bits == 5 else "0x00300030"
    for half in range(2):
        if half:
            text += "shr.u32 p, p, 4; shr.u32 q, q, 4;\n"
        for pair in range(2):
            out, source = f"${2 * half + pair}", "q" if pair else "p"
            text += f"lop3.b32 {out}, {source}, 0x000f000f, 0x43004300, 0xea;\n"  # (a & b) | c
            if bits > 4:
                text += taken_bits(FORMAT, ROW, half, pair)
                text += f" lop3.b32 {out}, r, {mask}, {out}, 0xea;\n"
            # a * 1 - b: SM 80 has no other sum of two bf16 at a time.
            text += f"fma.rn.bf16x2 {out}, {out}, one, zero;\n"
    return text + "}"


@triton.jit
def four_bits(codes, FORMAT: tl.constexpr, PORTABLE: tl.constexpr):
    """bf16 numbers of the low and of the high halves of `codes` u8 [.., lanes, 8]."""
    if PORTABLE:
        low = ((codes & 15).to(tl.float32) - zero_code(FORMAT)).to(tl.bfloat16)
        high = ((codes >> 4).to(tl.float32) - zero_code(FORMAT)).to(tl.bfloat16)
    else:
        low, high = tl.inline_asm_elementwise(
            instructions(FORMAT, 0), "=&r,=&r,=&r,=&r,r", [codes],
            dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    return low, high


@triton.jit
def more_bits(codes, bits, FORMAT: tl.constexpr, PORTABLE: tl.constexpr):
    """The same of 5 or 6 bits: `codes` u8 [panels, BLOCKS, 32, 8], `bits` u8 [.., 32, 2 or 4]."""
    P: tl.constexpr = codes.shape[0]
    B: tl.constexpr = codes.shape[1]
    if code_bits(FORMAT) == 5:  # bytes 0, 1, 0, 1 for columns 0 .. 3
        bits = tl.broadcast_to(bits[:, :, :, None, :], (P, B, 32, 2, 2))
        bits = tl.reshape(bits, (P, B, 32, 4))
    rows = tl.permute(tl.reshape(codes, (P, B, 32, 2, 4)), (0, 1, 2, 4, 3))
    upper, lower = tl.split(rows)
    low_0, high_0 = row_bits(upper, bits, FORMAT, 0, PORTABLE)
    low_1, high_1 = row_bits(lower, bits, FORMAT, 1, PORTABLE)
    low = tl.permute(tl.join(low_0, low_1), (0, 1, 2, 4, 3))
    high = tl.permute(tl.join(high_0, high_1), (0, 1, 2, 4, 3))
    return tl.reshape(low, (P, B, 32, 8)), tl.reshape(high, (P, B, 32, 8))


@triton.jit
def row_bits(codes, bits, FORMAT: tl.constexpr, ROW: tl.constexpr, PORTABLE: tl.constexpr):
    """`more_bits` of one row of a lane: `codes` and `bits` u8 [panels, BLOCKS, 32, 4]."""
    if PORTABLE:
        low = joined(codes & 15, bits, FORMAT, ROW, 0)
        high = joined(codes >> 4, bits, FORMAT, ROW, 1)
    else:
        low, high = tl.inline_asm_elementwise(
            instructions(FORMAT, ROW), "=&r,=&r,=&r,=&r,r,r", [codes, bits],
            dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    return low, high


@triton.jit
def joined(nibbles, bits, FORMAT: tl.constexpr, ROW: tl.constexpr, HALF: tl.constexpr):
    """Nibbles with their high bits, less the zero code."""
    BITS: tl.constexpr = code_bits(FORMAT)
    shift = high_shift(BITS, ROW, HALF, 0) + tl.arange(0, 4) // 2 * (4 if BITS == 5 else 0)
    top = (bits.to(tl.int32) >> shift[None, None, None, :]) & ((1 << (BITS - 4)) - 1)
    code = nibbles.to(tl.int32) + top * 16 - zero_code(FORMAT)
    return code.to(tl.float32).to(tl.bfloat16)


@triton.jit
def ones(w_ptr, BLOCKS: tl.constexpr, PORTABLE: tl.constexpr):
    """bf16 ones [BLOCKS, 16, 16], from bytes that were loaded, whatever these are.

    Triton gives a thread four columns behind one another where an operand comes from bytes in
    memory, else two; x would have to be there in both orders, which costs its asynchronous load.
    """
    if PORTABLE:
        one = tl.full((BLOCKS, 16, 16), 1.0, tl.bfloat16)
    else:
        codes = tl.load(w_ptr + tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :])
        one = tl.inline_asm_elementwise(
            "mov.b32 $0, 0x3f803f80; mov.b32 $1, 0x3f803f80;", "=r,=r,r",
            [tl.broadcast_to(codes[None, :, :], (BLOCKS, 16, 16))],
            dtype=tl.bfloat16, is_pure=True, pack=4,
        )  # fmt: skip
    return one
