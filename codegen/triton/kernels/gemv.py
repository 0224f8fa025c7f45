"""Linear layers of one or two rows on CUDA cores, where results may depend on the batch.

The same layers and epilogues as `linear.py`, weights of numbers or with a scale per row; but sums
along K are formed side by side in registers and added up at the end: other bits than tensor cores'
for the same row. For programs that gave up batch invariance; with one row there is less to set up
than for a tensor core's tile.

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
from .fragments import column_of, e4m3_to_bf16
from .linear import finish, outputs_of_tile, row_scales, rows_of_tile


@triton.jit
def numbers(w, FORMAT: tl.constexpr, PORTABLE: tl.constexpr):
    """f32 values of weights or codes."""
    return e4m3_to_bf16(w, PORTABLE).to(tl.float32) if FORMAT == "f8c" else w.to(tl.float32)


@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """x in f32, rounded to the type that tensor cores would multiply in."""
    return x.to(TYPE).to(tl.float32)


@triton.jit
def _load(pointers, mask):
    if mask is None:
        x = tl.load(pointers, eviction_policy="evict_last")
    else:
        x = tl.load(pointers, mask=mask, other=0)
    return x


@triton.jit
def load_row(x_ptr, added_at, column, mask, norm, SECOND: tl.constexpr, TYPE: tl.constexpr):
    """f32 elements `column` of the row at x_ptr, rounded to TYPE; SECOND: norm's second factor.

    norm: None, or (added_ptr, _, weight_ptr, factors of the two rows [1, 1]), by which the row is
    normalized as `x_rows.py` says; `added_at`: the element at which the row's addend begins.
    """
    x = _load(x_ptr + column, mask)
    if norm is not None:
        added_ptr, _, weight_ptr, first, second = norm
        x = x.to(tl.float32)
        if added_ptr is not None:
            x += _load(added_ptr + added_at + column, mask).to(tl.float32)
        x = x * (second if SECOND else first)
        if weight_ptr is not None:
            x = x * _load(weight_ptr + column, mask).to(tl.float32)
    return rounded(x, TYPE)


@triton.jit
def row_products(
    x_ptr, w_ptr, n, step, norm, K: tl.constexpr, W_STRIDE: tl.constexpr, FORMAT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
    PORTABLE: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCK_N, 1] twice: products with the row at x_ptr and the one `step` elements behind.

    Codes stay where they are, x comes to them.
    """
    TYPE: tl.constexpr = w_ptr.dtype.element_ty if FORMAT == "plain" else tl.bfloat16
    FULL: tl.constexpr = K // BLOCK_K * BLOCK_K
    place = tl.arange(0, BLOCK_K)[None, :]
    column = (place if FORMAT == "plain" else column_of(place)) + tl.zeros(
        (BLOCK_N, BLOCK_K), tl.int32
    )
    w_ptrs = w_ptr + n[:, None] * W_STRIDE + place
    behind = step * 0 if norm is None else norm[1]
    first = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    second = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in tl.range(0, FULL, BLOCK_K, loop_unroll_factor=UNROLL):
        w = numbers(tl.load(w_ptrs + k, eviction_policy="evict_first"), FORMAT, PORTABLE)
        first += w * load_row(x_ptr, 0, column + k, None, norm, False, TYPE)
        if ROWS == 2:
            second += w * load_row(x_ptr + step, behind, column + k, None, norm, True, TYPE)
    if FULL < K:
        left = column < K - FULL
        w = numbers(tl.load(w_ptrs + FULL, mask=left, other=0), FORMAT, PORTABLE)
        first += w * load_row(x_ptr, 0, column + FULL, left, norm, False, TYPE)
        if ROWS == 2:
            second += w * load_row(x_ptr + step, behind, column + FULL, left, norm, True, TYPE)
    return tl.sum(first, 1)[:, None], tl.sum(second, 1)[:, None]


@triton.jit
def store_products(
    x_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows, step, norm,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, FORMAT: tl.constexpr,
    ACT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    UNROLL: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """The layer of one or two rows, the second `step` elements behind the first."""
    tile = tl.program_id(0)
    n = rows_of_tile(tile, N, GATED, BLOCK_N).to(tl.int64)
    one, two = row_products(
        x_ptr, w_ptr, n, step, norm, K, W_STRIDE, FORMAT, ROWS, BLOCK_N, BLOCK_K, UNROLL, PORTABLE
    )
    if FORMAT != "plain":
        scale = row_scales(w_ptr, n, N, W_STRIDE)[:, None]
        one, two = one * scale, two * scale
    made = outputs_of_tile(tile, GATED, BLOCK_N)[:, None]
    for r in tl.static_range(ROWS):
        acc = one if r == 0 else two
        y = finish(acc, bias_ptr, tile, tile * 0, N, ACT, GATED, HAS_BIAS, BLOCK_N)
        stored = (made < OUT) & (tl.full((1, 1), r, tl.int32) < rows)
        if HAS_RESIDUAL:
            y += tl.load(residual_ptr + r * RESIDUAL_STRIDE + made, mask=stored, other=0)
        tl.store(out_ptr + r * OUT_STRIDE + made, soft_cap(y, SOFTCAP), mask=stored)


@triton.jit
def gemv_rows(
    x_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows,
    N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr, W_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, FORMAT: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """`linear_rows` for `rows` rows, at most ROWS (1 or 2). BLOCK_N: 32 or more where GATED."""
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    store_products(
        x_ptr, w_ptr, bias_ptr, residual_ptr, out_ptr, rows, (rows - 1) * X_STRIDE, None,
        N, K, OUT, W_STRIDE, RESIDUAL_STRIDE, OUT_STRIDE, FORMAT, ACT, GATED, HAS_BIAS,
        HAS_RESIDUAL, SOFTCAP, ROWS, BLOCK_N, BLOCK_K, UNROLL, PORTABLE,
    )  # fmt: skip
