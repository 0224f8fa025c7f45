"""Rows of x as products read them: as they lie in memory, or normalized on the way.

`norm` is None, or (added_ptr, added_at, weight_ptr, factor) of an rms_norm that no kernel has
computed: row i of x is then `(x + added) * factor[i] * weight` in f32, rounded by the reader as
what `norm.norm_rows` stores would be. added_at: the elements at which rows begin, as `x_at`;
added_ptr and weight_ptr may be None; factor f32 [BLOCK_T], from `norm.row_factors`. Each operation
is one of `norm_rows`, on the same numbers in the same order, and none is an addition of products
that a compiler might round otherwise, so the bits are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .norm import row_factors


@triton.jit
def load_rows(x_ptr, at, column, mask, norm, ALL: tl.constexpr):
    """Elements `column` of the rows that begin at `at`, 0 where not `mask`; ALL: no mask is needed.

    `at`, `column` and the factors broadcast against each other: at i64 [.., 1, BLOCK_T], column i32
    [.., COLUMNS, 1]. What is normalized comes as f32.
    """
    x = _load(x_ptr + at + column, mask, ALL)
    if norm is not None:
        added_ptr, added_at, weight_ptr, factor = norm
        if len(x.shape) == 3:
            added_at, factor = added_at[None, None, :], factor[None, None, :]
        else:
            added_at, factor = added_at[None, :], factor[None, :]
        x = x.to(tl.float32)
        if added_ptr is not None:
            x += _load(added_ptr + added_at + column, mask, ALL).to(tl.float32)
        x = x * factor
        if weight_ptr is not None:
            # A pointer for each element: they arrive in x's layout.
            x = x * _load(weight_ptr + at * 0 + column, mask, ALL).to(tl.float32)
    return x


@triton.jit
def _load(pointers, mask, ALL: tl.constexpr):
    return tl.load(pointers) if ALL else tl.load(pointers, mask=mask, other=0)


@triton.jit
def factors_of_few(
    x_ptr, added_ptr, sum_ptr, t, rows, tile, X_STRIDE: tl.constexpr,
    ADDED_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr, K: tl.constexpr, EPS: tl.constexpr,
    MOST: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """f32 [BLOCK_T]: the factors of rows `t`, of which MOST at most are below `rows`.
    Tile 0 stores the sums.

    `row_factors`, row by row: a tile of BLOCK_T rows would mostly add up zeros.
    """
    factors = tl.zeros((BLOCK_T,), tl.float32)
    for r in tl.static_range(MOST):
        one = row_factors(
            x_ptr, added_ptr, sum_ptr, tl.full((1,), r, tl.int32), rows, tile,
            X_STRIDE, ADDED_STRIDE, SUM_STRIDE, K, EPS, 1,
        )  # fmt: skip
        factors = tl.where(t == r, one, factors)
    return factors
