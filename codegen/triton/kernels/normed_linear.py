"""Linear layers of one or two rows that normalize their rows themselves: one launch fewer.

`normed_rows` is `norm.norm_rows` (of an rms_norm with ORDERED) and `linear.linear_rows` in one, and
`normed_gemv` the same with `gemv.gemv_rows`, with the same bits as these: see `x_rows.py`. Each
program computes the factors of all rows, which is little for as few as MOST. x and what is added
to it are read by every program until the end, so nothing may be written over them.

In: x [rows, K] f32 or 16 bits; added [rows, K] or None; the norm's weight [K] or None; a linear
weight [N, K] as `linear.py` has it. Out: the layer's result, and x + added f32 [rows, K] at
sum_ptr, if that isn't None: the programs of the first tile of weight rows store it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .gemv import store_products
from .linear import begin_early, store_tile, tile_product
from .x_rows import factors_of_few


@triton.jit
def normed_rows(
    x_ptr, added_ptr, scale_ptr, sum_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, X_STRIDE: tl.constexpr, ADDED_STRIDE: tl.constexpr,
    SUM_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    EPS: tl.constexpr, MOST: tl.constexpr, FORMAT: tl.constexpr, ACT: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    SOFTCAP: tl.constexpr, NATURAL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, PORTABLE: tl.constexpr = False,
    OVERLAPS: tl.constexpr = True, PREFETCH: tl.constexpr = 0,
):  # fmt: skip
    """`linear_rows` of `rms_norm(x + added) * scale` for `rows` rows, at most MOST (<= BLOCK_T).

    Grid: (ceil(N / BLOCK_N),).
    """
    tile = tl.program_id(0)
    if OVERLAPS and not PORTABLE:
        begin_early(w_ptr, tile, N, K, W_STRIDE, FORMAT, BLOCK_N, BLOCK_K, PREFETCH)
    t = tl.arange(0, BLOCK_T)
    factor = factors_of_few(
        x_ptr, added_ptr, sum_ptr, t, rows, tile,
        X_STRIDE, ADDED_STRIDE, SUM_STRIDE, K, EPS, MOST, BLOCK_T,
    )  # fmt: skip
    source = tl.minimum(t, rows - 1).to(tl.int64)
    expert = tile * 0
    acc = tile_product(
        x_ptr, source * X_STRIDE, w_ptr, tile, expert, N, K, W_STRIDE, ROWS, FORMAT,
        GATED, NATURAL, BLOCK_N, BLOCK_T, BLOCK_K, STAGES, PORTABLE,
        (added_ptr, source * ADDED_STRIDE, scale_ptr, factor),
    )  # fmt: skip
    store_tile(
        acc, bias_ptr, residual_ptr, out_ptr, tile, t, rows, N, OUT, RESIDUAL_STRIDE,
        OUT_STRIDE, ACT, GATED, HAS_BIAS, HAS_RESIDUAL, SOFTCAP, BLOCK_N,
    )  # fmt: skip


@triton.jit
def normed_gemv(
    x_ptr, added_ptr, scale_ptr, sum_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr, ADDED_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, EPS: tl.constexpr,
    FORMAT: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, SOFTCAP: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """`gemv_rows` of `rms_norm(x + added) * scale` for `rows` rows, at most ROWS (1 or 2)."""
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(0)
    factor = factors_of_few(
        x_ptr, added_ptr, sum_ptr, tl.arange(0, 2), rows, tile,
        X_STRIDE, ADDED_STRIDE, SUM_STRIDE, K, EPS, ROWS, 2,
    )  # fmt: skip
    one, two = tl.split(tl.reshape(factor, (1, 2)))
    behind = (rows - 1).to(tl.int64)
    store_products(
        x_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows, behind * X_STRIDE,
        (added_ptr, behind * ADDED_STRIDE, scale_ptr, one[:, None], two[:, None]),
        N, K, OUT, W_STRIDE, RESIDUAL_STRIDE, OUT_STRIDE, FORMAT, ACT, GATED, HAS_BIAS,
        HAS_RESIDUAL, SOFTCAP, ROWS, BLOCK_N, BLOCK_K, UNROLL, PORTABLE,
    )  # fmt: skip
