"""Products with weights that have scales per block (i8b, i4s … i6k), exact but for the sums.

In: panels of 16 rows as `codegen/triton/mma_panels.py` stores them, one buffer `w_ptr` (u8), and
rows of activations, which are rounded to bf16. FORMAT is the format's name, PANELS the panels of
all experts, K the columns. Out: f32 sums [BLOCK_N, BLOCK_T].

Codes are whole numbers that bf16 holds; a block of 32 columns is two `mma.m16n8k16` in f32, and
what comes out is multiplied with the block's scale in f32: `sum += scale * (codes · x)`, and
`sum += minimum * (ones · x)`. So no weight is rounded.

BLOCKS blocks are multiplied side by side, each with sums of its own, as one batched product: that
is `mma.sync` on every GPU (so bits don't depend on a tile), and Triton gives each warp blocks of
its own: no warp reads what another does. The sums are added at the end, in one order. What a row
gets depends on BLOCKS, not on BLOCK_N, BLOCK_T, or warps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .block_format import (
    code_bits,
    has_factors,
    has_mins,
    scales_per_row,
    section_at,
    super_length,
    zero_code,
)

# Four bytes to eight bf16: a nibble becomes the low mantissa bits of 128 + code, exact in bf16, and
# 128 + ZERO is subtracted (as a * 1 - b: SM 80 has no other two-lane sum).
_NIBBLES = """
{{ .reg .b32 p, q, one, zero;
mov.b32 one, 0x3f803f80; mov.b32 zero, {zero};
prmt.b32 p, $4, 0, 0x4140; prmt.b32 q, $4, 0, 0x4342;
lop3.b32 $0, p, 0x000f000f, 0x43004300, 0xea;
lop3.b32 $1, q, 0x000f000f, 0x43004300, 0xea;
shr.u32 p, p, 4; shr.u32 q, q, 4;
lop3.b32 $2, p, 0x000f000f, 0x43004300, 0xea;
lop3.b32 $3, q, 0x000f000f, 0x43004300, 0xea;
fma.rn.bf16x2 $0, $0, one, zero; fma.rn.bf16x2 $1, $1, one, zero;
fma.rn.bf16x2 $2, $2, one, zero; fma.rn.bf16x2 $3, $3, one, zero; }}
"""
LESS_0 = tl.constexpr(_NIBBLES.format(zero="0xc300c300"))  # -128, twice
LESS_8 = tl.constexpr(_NIBBLES.format(zero="0xc308c308"))  # -136


@triton.jit
def four_bits(codes, FORMAT: tl.constexpr, PORTABLE: tl.constexpr):
    """bf16 codes, less the zero code, of the low and of the high halves of bytes."""
    if PORTABLE:
        low = ((codes & 15).to(tl.float32) - zero_code(FORMAT)).to(tl.bfloat16)
        high = ((codes >> 4).to(tl.float32) - zero_code(FORMAT)).to(tl.bfloat16)
    else:
        low, high = tl.inline_asm_elementwise(
            LESS_8 if zero_code(FORMAT) == 8 else LESS_0, "=&r,=&r,=&r,=&r,r", [codes],
            dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    return low, high


@triton.jit
def more_bits(codes, high, FORMAT: tl.constexpr):
    """The same of 5 or 6 bits: `codes` u8 [.., 32, 8] and a lane's `high` bits [.., 32]."""
    BITS: tl.constexpr = code_bits(FORMAT)
    MASK: tl.constexpr = (1 << (BITS - 4)) - 1
    shift = tl.arange(0, 8) * (BITS - 4)
    high = high.to(tl.uint32)[:, :, :, None]
    first = ((high >> shift[None, None, None, :]) & MASK).to(tl.uint8) << 4
    second = ((high >> (shift + 8 * (BITS - 4))[None, None, None, :]) & MASK).to(tl.uint8) << 4
    first = (first | (codes & 15)).to(tl.int8) - zero_code(FORMAT)
    second = (second | (codes >> 4)).to(tl.int8) - zero_code(FORMAT)
    return first.to(tl.int8).to(tl.bfloat16), second.to(tl.int8).to(tl.bfloat16)


@triton.jit
def operand(codes, BLOCKS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Lanes' codes [panels, BLOCKS, lanes, 8] as the rows that they are: [BLOCKS, BLOCK_N, 16]."""
    lanes = tl.reshape(codes, (BLOCK_N // 16, BLOCKS, 8, 4, 2, 4))
    return tl.reshape(tl.permute(lanes, (1, 0, 4, 2, 3, 5)), (BLOCKS, BLOCK_N, 16))


@triton.jit
def load_halves(w_ptr, panel, block, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
                PORTABLE: tl.constexpr):  # fmt: skip
    """bf16 codes of columns 0 .. 15 and 16 .. 31 of blocks: twice [BLOCKS, BLOCK_N, 16]."""
    B: tl.constexpr = (K + 31) // 32
    BLOCKS: tl.constexpr = block.shape[0]
    BLOCK_N: tl.constexpr = panel.shape[0] * 16
    at = (panel * B)[:, None] + block[None, :]
    codes = tl.load(w_ptr + (at * 256)[:, :, None] + tl.arange(0, 256)[None, None, :])
    if code_bits(FORMAT) == 4:
        low, high = four_bits(codes, FORMAT, PORTABLE)
    else:
        TYPE: tl.constexpr = tl.uint16 if code_bits(FORMAT) == 5 else tl.uint32
        start = (w_ptr + section_at(FORMAT, PANELS, K, "high")).to(tl.pointer_type(TYPE))
        bits = tl.load(start + (at * 32)[:, :, None] + tl.arange(0, 32)[None, None, :])
        codes = tl.reshape(codes, (BLOCK_N // 16, BLOCKS, 32, 8))
        low, high = more_bits(codes, bits, FORMAT)
    return operand(low, BLOCKS, BLOCK_N), operand(high, BLOCKS, BLOCK_N)


@triton.jit
def load_bytes(w_ptr, panel, block, K: tl.constexpr):
    """bf16 values of 8-bit codes [BLOCKS, BLOCK_N, 32]."""
    B: tl.constexpr = (K + 31) // 32
    BLOCKS: tl.constexpr = block.shape[0]
    at = ((panel * B)[:, None] + block[None, :]) * 512
    codes = tl.load(
        w_ptr.to(tl.pointer_type(tl.int8)) + at[:, :, None] + tl.arange(0, 512)[None, None, :]
    )
    lanes = tl.reshape(codes, (panel.shape[0], BLOCKS, 8, 4, 2, 2, 4))
    rows = tl.permute(lanes, (1, 0, 5, 2, 4, 3, 6))
    return tl.reshape(rows, (BLOCKS, panel.shape[0] * 16, 32)).to(tl.bfloat16)


@triton.jit
def load_numbers(
    w_ptr, panel, column, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    NAME: tl.constexpr, TYPE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCKS, BLOCK_N]: columns `column` i32 [BLOCKS] of a section [PANELS, COLUMNS, 16]."""
    start = (w_ptr + section_at(FORMAT, PANELS, K, NAME)).to(tl.pointer_type(TYPE))
    at = ((panel * COLUMNS)[None, :] + column[:, None]) * 16
    numbers = tl.load(start + at[:, :, None] + tl.arange(0, 16)[None, None, :])
    return tl.reshape(numbers, (column.shape[0], panel.shape[0] * 16)).to(tl.float32)


@triton.jit
def load_scales(
    w_ptr, panel, block, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    MINS: tl.constexpr = False, HALF: tl.constexpr = 0,
):  # fmt: skip
    """Scales (MINS: minima) of blocks, f32 [BLOCKS, BLOCK_N]; HALF: which 16 columns, of i6k."""
    SECTION: tl.constexpr = "mins" if MINS else "scales"
    COUNT: tl.constexpr = scales_per_row(FORMAT, K)
    if has_factors(FORMAT):
        FACTORS: tl.constexpr = "min_factors" if MINS else "factors"
        PER: tl.constexpr = 2 if FORMAT == "i6k" else 1
        TYPE: tl.constexpr = tl.int8 if FORMAT == "i6k" else tl.uint8
        B: tl.constexpr = (K + 31) // 32
        wide = load_numbers(
            w_ptr, panel, block // super_length(K), FORMAT, PANELS, K, SECTION, tl.float16, COUNT
        )
        factors = load_numbers(
            w_ptr, panel, block * PER + HALF, FORMAT, PANELS, K, FACTORS, TYPE, B * PER
        )
        return wide * factors
    else:
        return load_numbers(w_ptr, panel, block, FORMAT, PANELS, K, SECTION, tl.float16, COUNT)


@triton.jit
def load_x(
    x_ptr, x_at, block, FIRST: tl.constexpr, COLUMNS: tl.constexpr, K: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """bf16 [BLOCKS, COLUMNS, BLOCK_T]: columns FIRST .. of blocks; zeros past K."""
    column = block[:, None] * 32 + FIRST + tl.arange(0, COLUMNS)[None, :]
    pointers = x_ptr + x_at[None, None, :] + column[:, :, None]
    if TAIL:
        return tl.load(pointers, mask=(column < K)[:, :, None], other=0).to(tl.bfloat16)
    else:
        return tl.load(pointers).to(tl.bfloat16)


@triton.jit
def row_sums(first, second, BLOCK_N: tl.constexpr):
    """Sums of x over blocks, for each of BLOCK_N rows the same: as the product with ones."""
    BLOCKS: tl.constexpr = first.shape[0]
    BLOCK_T: tl.constexpr = first.shape[2]
    ones = tl.full((BLOCKS, 16, 16), 1.0, tl.bfloat16)
    sums = tl.dot(ones, second, tl.dot(ones, first))
    sums = tl.broadcast_to(sums[:, None, :, :], (BLOCKS, BLOCK_N // 16, 16, BLOCK_T))
    return tl.reshape(sums, (BLOCKS, BLOCK_N, BLOCK_T))


@triton.jit
def add_blocks(
    acc, x_ptr, x_at, w_ptr, panel, first, FORMAT: tl.constexpr, PANELS: tl.constexpr,
    K: tl.constexpr, TAIL: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """`acc` [BLOCKS, BLOCK_N, BLOCK_T] plus what blocks `first` .. add; TAIL: some are past K."""
    BLOCK_N: tl.constexpr = acc.shape[1]
    block = first + tl.arange(0, acc.shape[0])
    own = tl.minimum(block, (K + 31) // 32 - 1) if TAIL else block
    scale = load_scales(w_ptr, panel, own, FORMAT, PANELS, K)
    if code_bits(FORMAT) == 8:
        x = load_x(x_ptr, x_at, block, 0, 32, K, TAIL)
        return tl.fma(tl.dot(load_bytes(w_ptr, panel, own, K), x), scale[:, :, None], acc)
    else:
        low, high = load_halves(w_ptr, panel, own, FORMAT, PANELS, K, PORTABLE)
        x_low = load_x(x_ptr, x_at, block, 0, 16, K, TAIL)
        x_high = load_x(x_ptr, x_at, block, 16, 16, K, TAIL)
        if FORMAT == "i6k":
            other = load_scales(w_ptr, panel, own, FORMAT, PANELS, K, HALF=1)
            acc = tl.fma(tl.dot(low, x_low), scale[:, :, None], acc)
            return tl.fma(tl.dot(high, x_high), other[:, :, None], acc)
        else:
            acc = tl.fma(tl.dot(high, x_high, tl.dot(low, x_low)), scale[:, :, None], acc)
            if has_mins(FORMAT):
                minimum = load_scales(w_ptr, panel, own, FORMAT, PANELS, K, MINS=True)
                acc = tl.fma(row_sums(x_low, x_high, BLOCK_N), minimum[:, :, None], acc)
            return acc


@triton.jit
def sum_in_order(acc):
    """[BLOCKS, N, T] → [N, T]: the second half is added to the first until one is left."""
    BLOCKS: tl.constexpr = acc.shape[0]
    if BLOCKS == 1:
        return tl.reshape(acc, (acc.shape[1], acc.shape[2]))
    else:
        halves = tl.reshape(acc, (2, BLOCKS // 2, acc.shape[1], acc.shape[2]))
        first, second = tl.split(tl.permute(halves, (1, 2, 3, 0)))
        return sum_in_order(first + second)


@triton.jit
def block_product(
    x_ptr, x_at, w_ptr, panel, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCKS: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCK_N, BLOCK_T]: BLOCK_N rows of the weight, from `panel` on, times rows of x.

    `panel` is the number of the first panel, of all experts; panels past the last are the last one
    again. `x_at` i64 [BLOCK_T]: the elements of x_ptr at which its rows begin. BLOCK_N is a
    multiple of 16, BLOCK_T at least 8, BLOCKS a power of two: best the warps, or twice that.
    """
    B: tl.constexpr = (K + 31) // 32
    FULL: tl.constexpr = K // (32 * BLOCKS) * BLOCKS
    own = tl.minimum(panel + tl.arange(0, BLOCK_N // 16), PANELS - 1).to(tl.int64)
    acc = tl.zeros((BLOCKS, BLOCK_N, BLOCK_T), tl.float32)
    for block in range(0, FULL, BLOCKS):
        acc = add_blocks(acc, x_ptr, x_at, w_ptr, own, block, FORMAT, PANELS, K, False, PORTABLE)
    if FULL < B:
        acc = add_blocks(acc, x_ptr, x_at, w_ptr, own, FULL, FORMAT, PANELS, K, True, PORTABLE)
    return sum_in_order(acc)


@triton.jit
def gated_order(y):
    """Rows of panels that alternate between gate and up: 8 of the gate before their 8 of up.

    That is the order of `linear.weight_rows` for a gated weight.
    """
    PAIRS: tl.constexpr = y.shape[0] // 32
    rows = tl.reshape(y, (PAIRS, 2, 2, 8, y.shape[1]))
    return tl.reshape(tl.permute(rows, (0, 2, 1, 3, 4)), (y.shape[0], y.shape[1]))
