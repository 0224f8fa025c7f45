"""Linear layers on tensor cores: `y = epilogue(x Wᵀ)` for any number of rows, in one order of K.

The weight is the left operand: `acc[BLOCK_N, BLOCK_T] = W[BLOCK_N, BLOCK_K] · xᵀ[BLOCK_K, BLOCK_T]`.
64 outputs fill Hopper's `wgmma` whatever the number of rows, so 1 row and 1000 rows run the same
instructions along K, in the same order, in tiles of the same BLOCK_K: what a row gets doesn't
depend on how many rows stand beside it (BLOCK_T and BLOCK_N may differ from launch to launch, BLOCK_K
and the kind of instruction may not; `tiles.py` sees to it).

In: x [rows, K] with X_STRIDE elements between rows, in f32 or 16 bits; it's rounded to the type
that is multiplied in. A weight [N, K] (of experts [E, N, K] as E * N rows), one buffer:

| FORMAT  | w_ptr         | a row                     | multiplied in | SECTIONS                       |
|---------|---------------|---------------------------|---------------|--------------------------------|
| `plain` | f32, bf16,f16 | K elements                | its own type  | ()                             |
| `i8c`   | i8            | K codes in fragment order | bf16          | (byte where f32 [rows] begins,)|
| `f8c`   | u8, bits of   | K codes in fragment order | bf16          | (byte where f32 [rows] begins,)|
|         | e4m3          |                           |               |                                |

W_STRIDE elements lie between rows: K rounded up to 16 bytes, of codes K rounded up to 64. What pads
a row may be anything. A row's f32 scale multiplies the sum (not the codes), so codes enter the
product exactly. e4m3's NaN isn't recognised: weights have none.

*Fragment order*: each 64 columns of codes stand so that what one thread feeds to the tensor core
are 16 bytes in a row, loaded at once; in columns' own order a thread reads pairs of bytes. Column
16 s + 8 h + 2 q + j is at place 16 q + 4 s + 2 h + j (q, s < 4; h, j < 2). NATURAL says how a tile
of codes gets to its columns: True for `wgmma` and `tcgen05`, which take x from shared memory and so
in its own order; False for `mma.sync` (SM 80, 86, 89, 120), where x too is in registers and both
operands take a common order that moves neither between threads.

Out: [rows, OUT] in out_ptr's type with OUT_STRIDE elements between rows. Epilogue, in f32:
`softcap(residual + act(x Wᵀ + bias))`, or `act(gate) * up` where GATED: weight rows alternate
between 16 of the gate and 16 of the up projection, and a tile of BLOCK_N rows makes BLOCK_N / 2
outputs. The tile takes its rows in such an order that a thread holds both.

Grid of `linear_rows`: (ceil(N / BLOCK_N), ceil(rows / BLOCK_T)). Grid of `grouped_linear`:
(ceil(N / BLOCK_N), ceil(rows / BLOCK_T) + E), an upper bound that needs no look at the offsets.
Pointers that a launch doesn't need (bias, residual, index) may be any.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .activation import activate, soft_cap


@triton.jit
def e4m3_to_bf16(codes):
    """bf16 values of e4m3 bits u8, exact: the bits moved to bf16's places are the value / 2^120."""
    wide = codes.to(tl.uint16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 4)
    return bits.to(tl.bfloat16, bitcast=True) * tl.full([], 1.329227995784916e36, tl.bfloat16)


@triton.jit
def weight_rows(tile, OUT: tl.constexpr, N: tl.constexpr, GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """(weight row of each tile row, output of each accumulator row, which of these exist).

    Weight rows past the end are the last one again: loads need no mask. Gated: in each 16 rows of
    the tile, 8 of the gate stand before their 8 of the up projection. A tensor core gives rows r
    and r + 8 of 16 to one thread, so `gate * up` moves nothing.
    """
    row = tl.arange(0, BLOCK_N)
    if GATED:
        made = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        source = tile * (BLOCK_N // 2) + row // 16 * 8 + row % 8
        n = source // 16 * 32 + row // 8 % 2 * 16 + source % 16
    else:
        made = tile * BLOCK_N + row
        n = made
    return tl.minimum(n, N - 1), made, made < OUT


@triton.jit
def add_tile(
    acc, x_ptr, x_at, w_ptr, n, k, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr, NATURAL: tl.constexpr,
    SECTIONS: tl.constexpr, BLOCK_K: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """`acc` plus what columns k .. k + BLOCK_K add; TAIL: some of them are past K."""
    COMPUTE: tl.constexpr = w_ptr.dtype.element_ty if FORMAT == "plain" else tl.bfloat16
    # What pads codes is a number, times an x of 0; what pads plain rows may be a NaN.
    ROW: tl.constexpr = K if FORMAT == "plain" else W_STRIDE
    column = k + tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + x_at[None, :] + column[:, None]
    w_ptrs = w_ptr + (n * W_STRIDE)[:, None] + column[None, :]
    if TAIL:
        x = tl.load(x_ptrs, mask=(column < K)[:, None], other=0)
        w = tl.load(w_ptrs, mask=(column < ROW)[None, :], other=0)
    else:
        x = tl.load(x_ptrs)
        w = tl.load(w_ptrs)
    x = x.to(COMPUTE)
    if FORMAT != "plain":
        w = tl.reshape(w, (w.shape[0], BLOCK_K // 64, 4, 4, 2, 2))
        if NATURAL:
            w = tl.permute(w, (0, 1, 3, 4, 2, 5))
        else:
            w = tl.permute(w, (0, 1, 3, 2, 4, 5))
            x = tl.reshape(x, (BLOCK_K // 64, 4, 2, 4, 2, x.shape[1]))
            x = tl.reshape(tl.permute(x, (0, 1, 3, 2, 4, 5)), (BLOCK_K, x.shape[5]))
        w = tl.reshape(w, (w.shape[0], BLOCK_K))
    if FORMAT == "f8c":
        w = e4m3_to_bf16(w)
    return tl.dot(w.to(COMPUTE), x, acc, input_precision="ieee")


@triton.jit
def product(
    x_ptr, x_at, w_ptr, n, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr, NATURAL: tl.constexpr,
    SECTIONS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCK_N, BLOCK_T]: weight rows `n` i64 times the rows of x that begin at `x_at` i64."""
    FULL: tl.constexpr = K // BLOCK_K * BLOCK_K
    acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    for k in range(0, FULL, BLOCK_K):
        acc = add_tile(
            acc, x_ptr, x_at, w_ptr, n, k, K, W_STRIDE, FORMAT, NATURAL, SECTIONS, BLOCK_K, False
        )
    if FULL < K:
        acc = add_tile(
            acc, x_ptr, x_at, w_ptr, n, FULL, K, W_STRIDE, FORMAT, NATURAL, SECTIONS, BLOCK_K, True
        )
    if FORMAT == "i8c" or FORMAT == "f8c":
        scales = (w_ptr + SECTIONS[0]).to(tl.pointer_type(tl.float32))
        acc = acc * tl.load(scales + n)[:, None]
    return acc


@triton.jit
def finish(acc, bias_ptr, n, ACT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Bias, activation and gate: [BLOCK_N, BLOCK_T] sums → [outputs, BLOCK_T], f32."""
    if HAS_BIAS:
        acc += tl.load(bias_ptr + n).to(tl.float32)[:, None]
    if GATED:
        PANELS: tl.constexpr = acc.shape[0] // 16
        pairs = tl.permute(tl.reshape(acc, (PANELS, 2, 8, acc.shape[1])), (0, 2, 3, 1))
        gate, up = tl.split(pairs)
        y = tl.reshape(activate(gate, ACT) * up, (PANELS * 8, acc.shape[1]))
    else:
        y = activate(acc, ACT)
    return y


@triton.jit
def linear_rows(
    x_ptr, w_ptr, bias_ptr, residual_ptr, index_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    FORMAT: tl.constexpr, NATURAL: tl.constexpr, SECTIONS: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, GATHER: tl.constexpr,
    SOFTCAP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """`out[r] = softcap(residual[r] + act(x[r] Wᵀ + bias))` for `rows` rows; see the file's top.

    GATHER: row r of the input is `x[index[r]]`, index i32 [rows]. residual f32 [rows, OUT]. GROUP
    tiles of rows walk along N side by side, so that weights are read from L2 that many times fewer;
    1: tiles run as they are numbered.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    tile_t, tile_n = tl.program_id(1), tl.program_id(0)
    if GROUP > 1:
        tile_t, tile_n = tl.swizzle2d(
            tile_t, tile_n, tl.num_programs(1), tl.num_programs(0), GROUP
        )
    n, made, exists = weight_rows(tile_n, OUT, N, GATED, BLOCK_N)
    n = n.to(tl.int64)
    t = tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    source = tl.minimum(t, rows - 1)
    if GATHER:
        source = tl.load(index_ptr + source)
    x_at = source.to(tl.int64) * X_STRIDE
    acc = product(
        x_ptr, x_at, w_ptr, n, K, W_STRIDE, FORMAT, NATURAL, SECTIONS, BLOCK_N, BLOCK_T, BLOCK_K
    )
    y = finish(acc, bias_ptr, n, ACT, GATED, HAS_BIAS)
    stored = exists[:, None] & (t < rows)[None, :]
    row = t.to(tl.int64)[None, :]
    if HAS_RESIDUAL:
        residual = residual_ptr + row * RESIDUAL_STRIDE + made[:, None]
        y += tl.load(residual, mask=stored, other=0).to(tl.float32)
    y = soft_cap(y, SOFTCAP)
    tl.store(out_ptr + row * OUT_STRIDE + made[:, None], y, mask=stored)


@triton.jit
def tile_of_expert(tile, offsets_ptr, EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr):
    """(expert, its first row in this tile, its end) of tile number `tile`; empty past the last.

    Each expert's rows are cut into tiles of their own, expert after expert.
    """
    SLOTS: tl.constexpr = triton.next_power_of_2(EXPERTS)
    e = tl.arange(0, SLOTS)
    real = e < EXPERTS
    begin = tl.load(offsets_ptr + e, mask=real, other=0)
    end = tl.load(offsets_ptr + e + 1, mask=real, other=0)
    tiles = (end - begin + BLOCK_T - 1) // BLOCK_T
    after = tl.cumsum(tiles, 0)
    expert = tl.sum((real & (after <= tile)).to(tl.int32), 0)
    mine = e == expert
    before = tl.sum(tl.where(mine, after - tiles, 0), 0)
    first = tl.sum(tl.where(mine, begin, 0), 0) + (tile - before) * BLOCK_T
    last = tl.sum(tl.where(mine, end, 0), 0)
    return expert, tl.where(expert < EXPERTS, first, last), last


@triton.jit
def grouped_linear(
    x_ptr, w_ptr, bias_ptr, index_ptr, offsets_ptr, out_ptr,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, EXPERTS: tl.constexpr,
    W_STRIDE: tl.constexpr, X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    FORMAT: tl.constexpr, NATURAL: tl.constexpr, SECTIONS: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, GATHER: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """`linear_rows` where rows `offsets[e] .. offsets[e + 1]` take the weight of expert e.

    offsets i32 [EXPERTS + 1], index i32 [rows] if GATHER, weight [EXPERTS, N, K] as EXPERTS * N
    rows, bias f32 [EXPERTS, N]. Programs past the last tile do nothing.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    expert, first, last = tile_of_expert(tl.program_id(1), offsets_ptr, EXPERTS, BLOCK_T)
    if first < last:
        n, made, exists = weight_rows(tl.program_id(0), OUT, N, GATED, BLOCK_N)
        n = expert.to(tl.int64) * N + n
        t = first + tl.arange(0, BLOCK_T)
        source = tl.minimum(t, last - 1)
        if GATHER:
            source = tl.load(index_ptr + source)
        x_at = source.to(tl.int64) * X_STRIDE
        acc = product(
            x_ptr, x_at, w_ptr, n, K, W_STRIDE, FORMAT, NATURAL, SECTIONS, BLOCK_N, BLOCK_T, BLOCK_K
        )
        y = soft_cap(finish(acc, bias_ptr, n, ACT, GATED, HAS_BIAS), SOFTCAP)
        at = t.to(tl.int64)[None, :] * OUT_STRIDE + made[:, None]
        tl.store(out_ptr + at, y, mask=exists[:, None] & (t < last)[None, :])
