"""Linear layers on tensor cores: `y = epilogue(x Wᵀ)` for any number of rows, in one order of K.

The weight is the left operand: `acc[BLOCK_N, BLOCK_T] += W[BLOCK_N, BLOCK_K] xᵀ[BLOCK_K, BLOCK_T]`.
64 outputs fill Hopper's `wgmma` whatever the number of rows, so 1 row and 1000 rows run the same
instructions along K, in the same order, in tiles of the same BLOCK_K: what a row gets doesn't
depend on how many rows stand beside it (BLOCK_T and BLOCK_N may differ from launch to launch,
BLOCK_K and the kind of instruction may not; `tiles.py` sees to it).

In: x [rows, K] with X_STRIDE elements between rows, in f32 or 16 bits; it's rounded to the type
that is multiplied in. A weight [N, K] (of experts: [E, N, K]) in one buffer:

| FORMAT  | w_ptr          | W_STRIDE elements a row         | behind all rows  | multiplied in |
|---------|----------------|---------------------------------|------------------|---------------|
| `plain` | f32, bf16, f16 | K numbers                       |                  | their type    |
| `i8c`   | i8             | K codes, order: `fragments.py`  | f32 scales, rows | bf16          |
| `f8c`   | u8: e4m3 bits  | the same                        | the same         | bf16          |
| others  | u8             | panels, see `weight_blocks.py`  | scales of blocks | bf16          |

W_STRIDE is K rounded up to 16 bytes, of codes to 64. What pads a row may be anything. A row's scale
multiplies the sum (not the codes), so codes enter the product exactly. ROWS: weight rows of all
experts.

Out: [rows, OUT] in out_ptr's type with OUT_STRIDE elements between rows. Epilogue, in f32:
`softcap(residual + act(x Wᵀ + bias))`, or `act(gate) * up` where GATED: weight rows alternate
between 16 of the gate and 16 of the up projection, and a tile of BLOCK_N rows makes BLOCK_N / 2
outputs. The tile takes from each 8 and 8: a thread holds rows r and r + 8 of 16, so it has both.

Grid of `linear_rows`: (ceil(N / BLOCK_N), ceil(rows / BLOCK_T)). Grid of `grouped_linear`:
(ceil(N / BLOCK_N), ceil(rows / BLOCK_T) + E), an upper bound that needs no look at the offsets.
Pointers that a launch doesn't need (bias, residual, index) may be any. OVERLAPS: the kernel may
start before the one that it depends on has ended (SM 90 and up); PORTABLE: no inline
assembly, and nothing else that interpreters lack.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .activation import activate, soft_cap
from .fragments import e4m3_to_bf16, in_column_order, in_register_order
from .prefetch import prefetch_tile
from .weight_blocks import block_product, gated_order
from .x_rows import load_rows


@triton.jit
def rows_of_tile(tile, N: tl.constexpr, GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The weight row of each row of a tile, i32 [BLOCK_N]; past the end the last one again."""
    row = tl.arange(0, BLOCK_N)
    if GATED:
        row = row // 32 * 32 + row // 8 % 2 * 16 + row // 16 % 2 * 8 + row % 8
    return tl.minimum(tile * BLOCK_N + row, N - 1)


@triton.jit
def add_tile(
    acc, x_ptr, x_at, w_ptr, n, k, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr,
    NATURAL: tl.constexpr, BLOCK_K: tl.constexpr, TAIL: tl.constexpr, PORTABLE: tl.constexpr, norm,
):  # fmt: skip
    """`acc` plus what columns k .. k + BLOCK_K add; TAIL: some of them are past K."""
    COMPUTE: tl.constexpr = w_ptr.dtype.element_ty if FORMAT == "plain" else tl.bfloat16
    # What pads codes is a number, times an x of 0; what pads plain rows may be a NaN.
    END: tl.constexpr = K if FORMAT == "plain" else W_STRIDE
    column = k + tl.arange(0, BLOCK_K)
    mask = (column < K)[:, None] if TAIL else True
    x = load_rows(x_ptr, x_at[None, :], column[:, None], mask, norm, not TAIL).to(COMPUTE)
    w_ptrs = w_ptr + (n * W_STRIDE)[:, None] + column[None, :]
    w = tl.load(w_ptrs, mask=(column < END)[None, :], other=0) if TAIL else tl.load(w_ptrs)
    if FORMAT != "plain":
        codes = in_column_order(w, NATURAL)
        if FORMAT == "f8c":
            w = e4m3_to_bf16(codes, PORTABLE)
        else:
            w = codes.to(tl.float32).to(tl.bfloat16)
        if not NATURAL:
            x = in_register_order(x)
    return tl.dot(w, x, acc, input_precision="ieee")


@triton.jit
def product(
    x_ptr, x_at, w_ptr, n, K: tl.constexpr, W_STRIDE: tl.constexpr, ROWS: tl.constexpr,
    FORMAT: tl.constexpr, NATURAL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr, PORTABLE: tl.constexpr, norm=None,
):  # fmt: skip
    """f32 [BLOCK_N, BLOCK_T]: weight rows `n` i64 times the rows of x that begin at `x_at` i64."""
    FULL: tl.constexpr = K // BLOCK_K * BLOCK_K
    acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    for k in range(0, FULL, BLOCK_K):
        acc = add_tile(
            acc, x_ptr, x_at, w_ptr, n, k, K, W_STRIDE, FORMAT, NATURAL, BLOCK_K, False,
            PORTABLE, norm,
        )  # fmt: skip
    if FULL < K:
        acc = add_tile(
            acc, x_ptr, x_at, w_ptr, n, FULL, K, W_STRIDE, FORMAT, NATURAL, BLOCK_K, True,
            PORTABLE, norm,
        )  # fmt: skip
    if FORMAT != "plain":
        acc = acc * row_scales(w_ptr, n, ROWS, W_STRIDE)[:, None]
    return acc


@triton.jit
def row_scales(w_ptr, n, ROWS: tl.constexpr, W_STRIDE: tl.constexpr):
    """The f32 scales of weight rows `n`, which stand behind the codes of all rows."""
    scales = w_ptr.to(tl.pointer_type(tl.float32)) + ROWS * (W_STRIDE // 4)
    return tl.load(scales + n)


@triton.jit
def tile_product(
    x_ptr, x_at, w_ptr, tile, expert, N: tl.constexpr, K: tl.constexpr, W_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, FORMAT: tl.constexpr, GATED: tl.constexpr, NATURAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    PORTABLE: tl.constexpr, norm=None,
):  # fmt: skip
    """`product` of tile number `tile` of an expert's weight, in any format.

    norm: how rows are normalized on the way, as `x_rows.py` says.
    """
    if FORMAT == "plain" or FORMAT == "i8c" or FORMAT == "f8c":
        n = expert.to(tl.int64) * N + rows_of_tile(tile, N, GATED, BLOCK_N)
        acc = product(
            x_ptr, x_at, w_ptr, n, K, W_STRIDE, ROWS, FORMAT, NATURAL, BLOCK_N, BLOCK_T, BLOCK_K,
            PORTABLE, norm,
        )  # fmt: skip
    else:
        EACH: tl.constexpr = (N + 15) // 16
        panel = expert * EACH + tile * (BLOCK_N // 16)
        acc = block_product(
            x_ptr, x_at, w_ptr, panel, FORMAT, ROWS // N * EACH, K, BLOCK_N, BLOCK_T,
            BLOCK_K // 32, STAGES, PORTABLE, norm,
        )  # fmt: skip
        if GATED:
            acc = gated_order(acc)
    return acc


@triton.jit
def finish(
    acc, bias_ptr, tile, expert, N: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Bias, activation and gate: [BLOCK_N, BLOCK_T] sums → f32 [outputs of the tile, BLOCK_T]."""
    if HAS_BIAS:
        n = expert.to(tl.int64) * N + rows_of_tile(tile, N, GATED, BLOCK_N)
        acc += tl.load(bias_ptr + n).to(tl.float32)[:, None]
    if GATED:
        PAIRS: tl.constexpr = BLOCK_N // 16
        pairs = tl.permute(tl.reshape(acc, (PAIRS, 2, 8, acc.shape[1])), (0, 2, 3, 1))
        gate, up = tl.split(pairs)
        y = tl.reshape(activate(gate, ACT) * up, (PAIRS * 8, acc.shape[1]))
    else:
        y = activate(acc, ACT)
    return y


@triton.jit
def outputs_of_tile(tile, GATED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The outputs that a tile makes, i32."""
    MADE: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    return tile * MADE + tl.arange(0, MADE)


@triton.jit
def store_tile(
    acc, bias_ptr, residual_ptr, out_ptr, tile, t, rows, N: tl.constexpr, OUT: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, ACT: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    SOFTCAP: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The epilogue of sums [BLOCK_N, BLOCK_T], and what it makes of rows `t` that are below
    `rows`."""
    y = finish(acc, bias_ptr, tile, tile * 0, N, ACT, GATED, HAS_BIAS, BLOCK_N)
    made = outputs_of_tile(tile, GATED, BLOCK_N)[:, None]
    row = t.to(tl.int64)[None, :]
    stored = (made < OUT) & (row < rows)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * RESIDUAL_STRIDE + made, mask=stored, other=0)
        y += residual.to(tl.float32)
    tl.store(out_ptr + row * OUT_STRIDE + made, soft_cap(y, SOFTCAP), mask=stored)


@triton.jit
def begin_early(
    w_ptr, tile, N: tl.constexpr, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PREFETCH: tl.constexpr,
):  # fmt: skip
    """What comes before the end of the kernel in front, and the wait for it.

    The kernel behind may begin at once: it waits for all of this one, which has waited by then.
    """
    gdc_launch_dependents()
    if PREFETCH > 0:
        prefetch_tile(w_ptr, tile, N, K, W_STRIDE, FORMAT, BLOCK_N, BLOCK_K, PREFETCH)
    gdc_wait()


@triton.jit
def linear_rows(
    x_ptr, w_ptr, bias_ptr, residual_ptr, index_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, FORMAT: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, GATHER: tl.constexpr,
    SOFTCAP: tl.constexpr, NATURAL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, GROUP: tl.constexpr,
    PORTABLE: tl.constexpr = False, OVERLAPS: tl.constexpr = True, PREFETCH: tl.constexpr = 0,
):  # fmt: skip
    """`out[r] = softcap(residual[r] + act(x[r] Wᵀ + bias))` for `rows` rows; see the file's top.

    GATHER: row r of the input is `x[index[r]]`, index i32 [rows]. residual [rows, OUT]. GROUP tiles
    of rows walk along N side by side, so that weights are read from memory that many times fewer;
    1: tiles run as they are numbered. PREFETCH: how many tiles of K of its weights a program asks
    for before it waits (where GROUP is 1).
    """
    if OVERLAPS and not PORTABLE:
        begin_early(
            w_ptr, tl.program_id(0), N, K, W_STRIDE, FORMAT, BLOCK_N, BLOCK_K, PREFETCH
        )  # fmt: skip
    tile_t, tile = tl.program_id(1), tl.program_id(0)
    if GROUP > 1:
        tile_t, tile = tl.swizzle2d(tile_t, tile, tl.num_programs(1), tl.num_programs(0), GROUP)
    t = tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    source = tl.minimum(t, rows - 1)
    if GATHER:
        source = tl.load(index_ptr + source)
    expert = tile * 0
    acc = tile_product(
        x_ptr, source.to(tl.int64) * X_STRIDE, w_ptr, tile, expert, N, K, W_STRIDE, ROWS, FORMAT,
        GATED, NATURAL, BLOCK_N, BLOCK_T, BLOCK_K, STAGES, PORTABLE,
    )  # fmt: skip
    store_tile(
        acc, bias_ptr, residual_ptr, out_ptr, tile, t, rows, N, OUT, RESIDUAL_STRIDE,
        OUT_STRIDE, ACT, GATED, HAS_BIAS, HAS_RESIDUAL, SOFTCAP, BLOCK_N,
    )  # fmt: skip


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
    W_STRIDE: tl.constexpr, ROWS: tl.constexpr, X_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, FORMAT: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, GATHER: tl.constexpr, SOFTCAP: tl.constexpr, NATURAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    PORTABLE: tl.constexpr = False, OVERLAPS: tl.constexpr = True,
):  # fmt: skip
    """`linear_rows` where rows `offsets[e] .. offsets[e + 1]` take the weight of expert e.

    offsets i32 [EXPERTS + 1], index i32 [rows] if GATHER, weight [EXPERTS, N, K], bias
    [EXPERTS, N]. Programs past the last tile do nothing.
    """
    if OVERLAPS and not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(0)
    expert, first, last = tile_of_expert(tl.program_id(1), offsets_ptr, EXPERTS, BLOCK_T)
    if first < last:
        t = first + tl.arange(0, BLOCK_T)
        source = tl.minimum(t, last - 1)
        if GATHER:
            source = tl.load(index_ptr + source)
        acc = tile_product(
            x_ptr, source.to(tl.int64) * X_STRIDE, w_ptr, tile, expert, N, K, W_STRIDE, ROWS,
            FORMAT, GATED, NATURAL, BLOCK_N, BLOCK_T, BLOCK_K, STAGES, PORTABLE,
        )  # fmt: skip
        y = finish(acc, bias_ptr, tile, expert, N, ACT, GATED, HAS_BIAS, BLOCK_N)
        made = outputs_of_tile(tile, GATED, BLOCK_N)[:, None]
        row = t.to(tl.int64)[None, :]
        stored = (made < OUT) & (row < last)
        tl.store(out_ptr + row * OUT_STRIDE + made, soft_cap(y, SOFTCAP), mask=stored)
