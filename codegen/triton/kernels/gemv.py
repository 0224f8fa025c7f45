"""Linear layers of one or two rows on CUDA cores, where results may depend on the batch.

The same layers, weights and epilogues as `linear.py`, but sums along K are formed side by side in
registers and added up at the end: other bits than the tensor cores' for the same row. For programs
that gave up batch invariance; with one row there is less to set up than for a tensor core's tile.

Each program takes BLOCK_N weight rows. Loads of weights are unrolled UNROLL times, so that as many
are under way at once (pipelining by the compiler is for loops with `tl.dot` only). x is read by
two-dimensional pointers: it arrives in the layout of the weights, without a barrier.

Grid: (ceil(N / BLOCK_N),).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .activation import soft_cap
from .linear import finish, outputs_of_tile
from .panels import e4m3_to_bf16, rows_of_tile


@triton.jit
def dot_plain(
    x_ptr, w_ptr, tile, N: tl.constexpr, K: tl.constexpr, W_STRIDE: tl.constexpr,
    X_STEP, GATED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCK_N, 1] twice: the products of the first row of x and of the one X_STEP behind."""
    n = rows_of_tile(tile, N, GATED, BLOCK_N).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK_K)[None, :]
    x_ptrs = x_ptr + column + tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    w_ptrs = w_ptr + n * W_STRIDE + column
    first = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    second = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    TYPE: tl.constexpr = w_ptr.dtype.element_ty
    FULL: tl.constexpr = K // BLOCK_K * BLOCK_K
    for k in tl.range(0, FULL, BLOCK_K, loop_unroll_factor=UNROLL):
        w = tl.load(w_ptrs + k, eviction_policy="evict_first").to(tl.float32)
        first += w * rounded(tl.load(x_ptrs + k, eviction_policy="evict_last"), TYPE)
        if ROWS == 2:
            second += w * rounded(tl.load(x_ptrs + X_STEP + k, eviction_policy="evict_last"), TYPE)
    if FULL < K:
        inside = column + tl.zeros((BLOCK_N, BLOCK_K), tl.int32) < K - FULL
        w = tl.load(w_ptrs + FULL, mask=inside, other=0).to(tl.float32)
        first += w * rounded(tl.load(x_ptrs + FULL, mask=inside, other=0), TYPE)
        if ROWS == 2:
            second += w * rounded(tl.load(x_ptrs + X_STEP + FULL, mask=inside, other=0), TYPE)
    return tl.sum(first, 1)[:, None], tl.sum(second, 1)[:, None]


@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """x in f32, rounded to the type that tensor cores would multiply in."""
    return x.to(TYPE).to(tl.float32)


@triton.jit
def dot_panels(
    x_ptr, w_ptr, tile, N: tl.constexpr, K: tl.constexpr, PANELS: tl.constexpr, X_STEP,
    FORMAT: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The same for 8-bit codes in panels. Bytes stay where they are, x comes to them."""
    BLOCKS: tl.constexpr = (K + 31) // 32
    COUNT: tl.constexpr = BLOCK_N // 16
    panel = tl.minimum(tile * COUNT + tl.arange(0, COUNT), (N + 15) // 16 - 1).to(tl.int64)
    at = tl.arange(0, BLOCK_K * 16)[None, :]
    column = at // 512 * 32 + at // 8 % 2 * 16 + at // 2 % 2 * 8 + at // 16 % 4 * 2 + at % 2
    column += tl.zeros((COUNT, BLOCK_K * 16), tl.int32)
    w_ptrs = w_ptr + panel[:, None] * (BLOCKS * 512) + at
    first = tl.zeros((COUNT, BLOCK_K * 16), tl.float32)
    second = tl.zeros((COUNT, BLOCK_K * 16), tl.float32)
    FULL: tl.constexpr = K // BLOCK_K * BLOCK_K
    for k in tl.range(0, FULL, BLOCK_K, loop_unroll_factor=UNROLL):
        w = numbers(tl.load(w_ptrs + k * 16, eviction_policy="evict_first"), FORMAT)
        x = tl.load(x_ptr + column + k, eviction_policy="evict_last")
        first += w * rounded(x, tl.bfloat16)
        if ROWS == 2:
            x = tl.load(x_ptr + X_STEP + column + k, eviction_policy="evict_last")
            second += w * rounded(x, tl.bfloat16)
    if FULL < K:
        left = column < K - FULL
        w = numbers(tl.load(w_ptrs + FULL * 16, mask=left, other=0), FORMAT)
        x = tl.load(x_ptr + column + FULL, mask=left, other=0)
        first += w * rounded(x, tl.bfloat16)
        if ROWS == 2:
            x = tl.load(x_ptr + X_STEP + column + FULL, mask=left, other=0)
            second += w * rounded(x, tl.bfloat16)
    n = rows_of_tile(tile, N, GATED, BLOCK_N)
    scales = w_ptr.to(tl.pointer_type(tl.float32)) + PANELS * BLOCKS * 128
    scale = tl.load(scales + n)[:, None]
    one = sum_of_rows(first, GATED, BLOCK_K) * scale
    two = sum_of_rows(second, GATED, BLOCK_K) * scale if ROWS == 2 else one
    return one, two


@triton.jit
def numbers(codes, FORMAT: tl.constexpr):
    """f32 values of 8-bit codes."""
    return e4m3_to_bf16(codes).to(tl.float32) if FORMAT == "f8c" else codes.to(tl.float32)


@triton.jit
def sum_of_rows(terms, GATED: tl.constexpr, BLOCK_K: tl.constexpr):
    """f32 [16 * panels, 1] of terms that lie as panels do, rows in the order of `rows_of_tile`."""
    COUNT: tl.constexpr = terms.shape[0]
    parts = tl.reshape(terms, (COUNT, BLOCK_K // 32, 8, 4, 2, 2, 4))
    # [panel, block, g, t, half, r, (h, j)] to [panel, g, r]
    sums = tl.sum(tl.sum(tl.sum(tl.sum(parts, 6), 4), 3), 1)
    if GATED:
        sums = tl.permute(tl.reshape(sums, (COUNT // 2, 2, 8, 2)), (0, 3, 1, 2))
    else:
        sums = tl.permute(sums, (0, 2, 1))
    return tl.reshape(sums, (COUNT * 16, 1))


@triton.jit
def gemv_rows(
    x_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    PANELS: tl.constexpr, X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, FORMAT: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """`linear_rows` for `rows` rows, at most ROWS (1 or 2). BLOCK_N: 32 or more where GATED."""
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(0)
    step = (rows - 1) * X_STRIDE
    if FORMAT == "plain":
        one, two = dot_plain(
            x_ptr, w_ptr, tile, N, K, W_STRIDE, step, GATED, ROWS, BLOCK_N, BLOCK_K, UNROLL
        )
    else:
        one, two = dot_panels(
            x_ptr, w_ptr, tile, N, K, PANELS, step, FORMAT, GATED, ROWS, BLOCK_N, BLOCK_K, UNROLL
        )
    made = outputs_of_tile(tile, GATED, BLOCK_N)[:, None]
    for r in tl.static_range(ROWS):
        acc = one if r == 0 else two
        y = finish(acc, bias_ptr, tile, tile * 0, N, ACT, GATED, HAS_BIAS, BLOCK_N)
        stored = (made < OUT) & (tl.full((1, 1), r, tl.int32) < rows)
        if HAS_RESIDUAL:
            y += tl.load(residual_ptr + r * RESIDUAL_STRIDE + made, mask=stored, other=0)
        tl.store(out_ptr + r * OUT_STRIDE + made, soft_cap(y, SOFTCAP), mask=stored)
