"""Rows of a table: `out[t, :] = table[ids[t], :]`.

In: ids i32 or i64 [tokens]; a table [ROWS, K]. An id outside of it takes row 0: where no token
could be chosen, the step behind finds an id below zero. FORMAT `plain`: elements of table_ptr's
type with TABLE_STRIDE between rows, of any type; else a number format (`i8c`, `i4k` …), u8, as
`codegen/triton/layout.py` stores it. Out: [tokens, K] in out_ptr's type with OUT_STRIDE
elements between rows: f32, or the table's own type where that is whole numbers.

Grid: (ceil(tokens / BLOCK_T), ceil(K / BLOCK_K)).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .weight_values import block_values, row_scaled_values


@triton.jit
def embedding_rows(
    ids_ptr, table_ptr, out_ptr, tokens, FORMAT: tl.constexpr, ROWS: tl.constexpr,
    K: tl.constexpr, TABLE_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr, PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """See the file's top."""
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    ids = tl.load(ids_ptr + tl.minimum(t, tokens - 1)).to(tl.int64)
    row = tl.where((ids >= 0) & (ids < ROWS), ids, 0)[:, None]
    # Columns past K are the last one again: what stands behind a row may be anything.
    own = tl.minimum(column, K - 1)[None, :]
    if FORMAT == "plain":
        values = tl.load(table_ptr + row * TABLE_STRIDE + own)
    elif FORMAT == "i8c" or FORMAT == "f8c":
        values = row_scaled_values(table_ptr, row, own, FORMAT, ROWS, K)
    else:
        values = block_values(table_ptr, row, own, FORMAT, (ROWS + 15) // 16, K)
    stored = (t < tokens)[:, None] & (column < K)[None, :]
    out = out_ptr + t.to(tl.int64)[:, None] * OUT_STRIDE + column[None, :]
    tl.store(out, values.to(out_ptr.dtype.element_ty), mask=stored)
