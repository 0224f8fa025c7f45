"""Products with weights that have scales per block (i8b, i4s … i6k), exact but for the sums.

In: panels of 16 rows as `codegen/triton/mma_panels.py` stores them, one buffer `w_ptr` (u8), and
rows of activations, which are rounded to bf16. FORMAT is the format's name, PANELS the panels of
all experts, K the columns. Out: f32 sums [BLOCK_N, BLOCK_T].

Codes are whole numbers that bf16 holds; a block of 32 columns is two `mma.m16n8k16` in f32, and
what comes out is multiplied with the block's scale in f32: `sum += scale * (codes · x)`, and
`sum += minimum * (ones · x)`. So no weight is rounded.

BLOCKS blocks are multiplied side by side, each with sums of its own, as one batched product: that
is `mma.sync` on every GPU (so bits don't depend on a tile), and Triton gives warps blocks of their
own, so that none reads what another does. The sums are added at the end, in one order. What a row
gets depends on BLOCKS, not on BLOCK_N, BLOCK_T, or warps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .block_format import code_bits, has_factors, has_mins, scales_per_row, section_at, super_length
from .codes import four_bits, more_bits, ones
from .x_rows import load_rows


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
        BYTES: tl.constexpr = 2 * (code_bits(FORMAT) - 4)
        start = w_ptr + section_at(FORMAT, PANELS, K, "high") + (at * (32 * BYTES))[:, :, None]
        bits = tl.load(start + tl.arange(0, 32 * BYTES)[None, None, :])
        bits = tl.reshape(bits, (BLOCK_N // 16, BLOCKS, 32, BYTES))
        codes = tl.reshape(codes, (BLOCK_N // 16, BLOCKS, 32, 8))
        low, high = more_bits(codes, bits, FORMAT, PORTABLE)
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
def load_words(
    w_ptr, panel, column, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    NAME: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Numbers of rows g (low half of u32) and g + 8: [BLOCKS, panels, 8].

    Of columns `column` i32 [BLOCKS] of a section [PANELS, COLUMNS, 8].
    """
    start = (w_ptr + section_at(FORMAT, PANELS, K, NAME)).to(tl.pointer_type(tl.uint32))
    at = ((panel * COLUMNS)[None, :] + column[:, None]) * 8
    return tl.load(start + at[:, :, None] + tl.arange(0, 8)[None, None, :])


@triton.jit
def half_value(bits):
    """f32 of the float16 in the low half of u32."""
    return (bits & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def byte_value(byte, SHIFT: tl.constexpr):
    """f32 of `byte` u32 less SHIFT, as the last mantissa bits of 2^23: conversions are slow."""
    return (byte | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + SHIFT)


@triton.jit
def rows_of(upper, lower):
    """[BLOCKS, panels, 8] of rows g and of rows g + 8 as [BLOCKS, BLOCK_N]."""
    rows = tl.permute(tl.join(upper, lower), (0, 1, 3, 2))
    return tl.reshape(rows, (upper.shape[0], upper.shape[1] * 16))


@triton.jit
def load_scales(w_ptr, panel, block, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr):
    """f32 [BLOCKS, BLOCK_N] twice: scales of blocks, and what comes second.

    That is the minima; of i6k the scales of columns 16 .. 31 of blocks; else the scales again.
    """
    COUNT: tl.constexpr = scales_per_row(FORMAT, K)
    column = block // super_length(K) if has_factors(FORMAT) else block
    words = load_words(w_ptr, panel, column, FORMAT, PANELS, K, "scales", COUNT)
    upper, lower = half_value(words), half_value(words >> 16)
    upper_2, lower_2 = upper, lower
    if has_mins(FORMAT):
        words = load_words(w_ptr, panel, column, FORMAT, PANELS, K, "mins", COUNT)
        upper_2, lower_2 = half_value(words), half_value(words >> 16)
    if has_factors(FORMAT):
        # Two's complement of i6k becomes unsigned, with 128 added.
        SHIFT: tl.constexpr = 128 if FORMAT == "i6k" else 0
        words = load_words(w_ptr, panel, block, FORMAT, PANELS, K, "factors", (K + 31) // 32)
        words = words ^ (SHIFT * 0x01010101)
        upper *= byte_value(words & 255, SHIFT)
        upper_2 *= byte_value((words >> 8) & 255, SHIFT)
        lower *= byte_value((words >> 16) & 255, SHIFT)
        lower_2 *= byte_value(words >> 24, SHIFT)
    return rows_of(upper, lower), rows_of(upper_2, lower_2)


@triton.jit
def load_x(
    x_ptr, x_at, block, FIRST: tl.constexpr, COLUMNS: tl.constexpr, K: tl.constexpr,
    TAIL: tl.constexpr, norm,
):  # fmt: skip
    """bf16 [BLOCKS, COLUMNS, BLOCK_T]: columns FIRST .. of blocks; zeros past K."""
    column = block[:, None] * 32 + FIRST + tl.arange(0, COLUMNS)[None, :]
    # Without a mask where none is needed: loads with one are slower.
    mask = (column < K)[:, :, None] if TAIL else True
    x = load_rows(x_ptr, x_at[None, None, :], column[:, :, None], mask, norm, not TAIL)
    return x.to(tl.bfloat16)


@triton.jit
def row_sums(w_ptr, first, second, BLOCK_N: tl.constexpr, PORTABLE: tl.constexpr):
    """Sums of x over blocks, for each of BLOCK_N rows the same: as the product with ones."""
    BLOCKS: tl.constexpr = first.shape[0]
    BLOCK_T: tl.constexpr = first.shape[2]
    one = ones(w_ptr, BLOCKS, PORTABLE)
    sums = tl.dot(one, second, tl.dot(one, first))
    sums = tl.broadcast_to(sums[:, None, :, :], (BLOCKS, BLOCK_N // 16, 16, BLOCK_T))
    return tl.reshape(sums, (BLOCKS, BLOCK_N, BLOCK_T))


@triton.jit
def add_blocks(
    acc, x_ptr, x_at, w_ptr, panel, first, FORMAT: tl.constexpr, PANELS: tl.constexpr,
    K: tl.constexpr, TAIL: tl.constexpr, PORTABLE: tl.constexpr, norm,
):  # fmt: skip
    """`acc` [BLOCKS, BLOCK_N, BLOCK_T] plus what blocks `first` .. add; TAIL: some are past K."""
    BLOCK_N: tl.constexpr = acc.shape[1]
    block = first + tl.arange(0, acc.shape[0])
    own = tl.minimum(block, (K + 31) // 32 - 1) if TAIL else block
    scale, second = load_scales(w_ptr, panel, own, FORMAT, PANELS, K)
    if code_bits(FORMAT) == 8:
        x = load_x(x_ptr, x_at, block, 0, 32, K, TAIL, norm)
        acc = tl.fma(tl.dot(load_bytes(w_ptr, panel, own, K), x), scale[:, :, None], acc)
    else:
        low, high = load_halves(w_ptr, panel, own, FORMAT, PANELS, K, PORTABLE)
        x_low = load_x(x_ptr, x_at, block, 0, 16, K, TAIL, norm)
        x_high = load_x(x_ptr, x_at, block, 16, 16, K, TAIL, norm)
        if FORMAT == "i6k":
            acc = tl.fma(tl.dot(low, x_low), scale[:, :, None], acc)
            acc = tl.fma(tl.dot(high, x_high), second[:, :, None], acc)
        else:
            acc = tl.fma(tl.dot(high, x_high, tl.dot(low, x_low)), scale[:, :, None], acc)
            if has_mins(FORMAT):
                sums = row_sums(w_ptr, x_low, x_high, BLOCK_N, PORTABLE)
                acc = tl.fma(sums, second[:, :, None], acc)
    return acc


@triton.jit
def sum_in_order(acc):
    """[BLOCKS, N, T] → [N, T]: the second half is added to the first until one is left."""
    BLOCKS: tl.constexpr = acc.shape[0]
    if BLOCKS == 1:
        return tl.reshape(acc, (acc.shape[1], acc.shape[2]))
    else:  # noqa: RET505 - Triton compiles what stands behind a branch that is taken
        halves = tl.reshape(acc, (2, BLOCKS // 2, acc.shape[1], acc.shape[2]))
        first, second = tl.split(tl.permute(halves, (1, 2, 3, 0)))
        return sum_in_order(first + second)


@triton.jit
def block_product(
    x_ptr, x_at, w_ptr, panel, FORMAT: tl.constexpr, PANELS: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr,
    PORTABLE: tl.constexpr, norm=None,
):  # fmt: skip
    """f32 [BLOCK_N, BLOCK_T]: BLOCK_N rows of the weight, from `panel` on, times rows of x.

    `panel` is the number of the first panel, of all experts; panels past the last are the last one
    again. `x_at` i64 [BLOCK_T]: the elements of x_ptr at which its rows begin. BLOCK_N is a
    multiple of 16 (of 32 for 5 bits, or their high bits aren't loaded asynchronously), BLOCK_T at
    least 8, BLOCKS a power of two; warps are a multiple of BLOCKS, or else divide it. A thread has
    BLOCKS * BLOCK_N * BLOCK_T / threads registers of sums, and as many of products: 64 still fit.
    STAGES: K tiles that are on their way at once. norm: as `x_rows.py` has it.
    """
    B: tl.constexpr = (K + 31) // 32
    FULL: tl.constexpr = K // (32 * BLOCKS) * BLOCKS
    own = tl.minimum(panel + tl.arange(0, BLOCK_N // 16), PANELS - 1).to(tl.int64)
    acc = tl.zeros((BLOCKS, BLOCK_N, BLOCK_T), tl.float32)
    for block in tl.range(0, FULL, BLOCKS, num_stages=STAGES):
        acc = add_blocks(
            acc, x_ptr, x_at, w_ptr, own, block, FORMAT, PANELS, K, False, PORTABLE, norm
        )
    if FULL < B:
        acc = add_blocks(
            acc, x_ptr, x_at, w_ptr, own, FULL, FORMAT, PANELS, K, True, PORTABLE, norm
        )
    return sum_in_order(acc)


@triton.jit
def gated_order(y):
    """Rows of panels that alternate between gate and up: 8 of the gate before their 8 of up.

    That is the order of `linear.weight_rows` for a gated weight.
    """
    PAIRS: tl.constexpr = y.shape[0] // 32
    rows = tl.reshape(y, (PAIRS, 2, 2, 8, y.shape[1]))
    return tl.reshape(tl.permute(rows, (0, 2, 1, 3, 4)), (y.shape[0], y.shape[1]))
