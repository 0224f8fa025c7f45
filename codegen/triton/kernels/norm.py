"""Normalization of rows, with optional sum before it and quantization behind it.

In: rows f32 (or 16 bits) [rows, N]. Out: the sum f32, if there is one, and the normalized rows in
the element type of `out_ptr`, or their codes and scales. Everything is computed in f32.

A row's arithmetic depends on N and on constants only, never on how many rows there are: give
every number of rows the same ROWS, BLOCK_N and num_warps.
"""

# pyright: reportArgumentType=false
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .quantize import BLOCK, block_codes, row_codes, row_scale


@triton.jit
def norm_rows(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scale_ptr, total_ptr, rows,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr,
    EPS: tl.constexpr, CENTERED: tl.constexpr, ADD: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """Rows `ROWS * program …` of `rows`.

    Row r lies at element `r // GROUP * STRIDE + r % GROUP * N` (GROUP: the heads of a token, or 1).
    CENTERED: layer_norm, else rms_norm. ADD: x + residual is what is normalized, and is stored at
    `sum_ptr`. QUANTIZE "": out is the rows; "block": i8 codes, padded with 0 to whole blocks of 32,
    whose scales and totals lie SCALE_STRIDE elements a row; "row": codes i8 or 8-bit float, one
    scale a row, no totals. Pointers that aren't used may be anything. The sum may overwrite the
    residual or x, and so may `out_ptr` without QUANTIZE. BLOCK_N is a power of 2, at least 32 where
    codes are in blocks; rows that are longer than it are read again for every step.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if BLOCK_N >= N:
        _short(
            x_ptr, residual_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scale_ptr, total_ptr,
            row, row < rows, X_STRIDE, RESIDUAL_STRIDE, SUM_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, ADD, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N,
        )  # fmt: skip
    elif ADD:
        _add(
            x_ptr, residual_ptr, sum_ptr, row, row < rows,
            X_STRIDE, RESIDUAL_STRIDE, SUM_STRIDE, GROUP, N, BLOCK_N,
        )  # fmt: skip
        tl.debug_barrier()  # other threads of the program read the sums
        _long(
            sum_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, row < rows,
            SUM_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N,
        )  # fmt: skip
    else:
        _long(
            x_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, row < rows,
            X_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N,
        )  # fmt: skip


@triton.jit
def _short(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scale_ptr, total_ptr, row, real,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr,
    EPS: tl.constexpr, CENTERED: tl.constexpr, ADD: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows that a tile holds."""
    column, inside = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_N) < N
    mask = real[:, None] & inside[None, :]
    x = tl.load(_at(x_ptr, row, column, X_STRIDE, GROUP, N), mask=mask, other=0.0)
    x = x.to(tl.float32)
    if ADD:
        at = _at(residual_ptr, row, column, RESIDUAL_STRIDE, GROUP, N)
        x += tl.load(at, mask=mask, other=0.0).to(tl.float32)
        tl.store(_at(sum_ptr, row, column, SUM_STRIDE, GROUP, N), x, mask=mask)
    mean = tl.zeros((ROWS,), tl.float32)
    if CENTERED:
        mean = tl.sum(x, axis=1) / N
    centered = tl.where(inside[None, :], x - mean[:, None], 0.0)
    factor = rms_factor(tl.sum(centered * centered, axis=1), N, EPS)
    y = _scaled(centered, factor, weight_ptr, bias_ptr, column, inside, WEIGHT, BIAS)
    scale = mean
    if QUANTIZE == "row":
        scale = row_scale(tl.max(tl.abs(y), axis=1), out_ptr.dtype.element_ty)
        tl.store(scale_ptr + row.to(tl.int64) * SCALE_STRIDE, scale, mask=real)
    _store(
        y, scale, out_ptr, scale_ptr, total_ptr, row, real, 0,
        OUT_STRIDE, SCALE_STRIDE, GROUP, N, QUANTIZE, ROWS, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _long(
    x_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, real,
    X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr,
    GROUP: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr, CENTERED: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows of several tiles, which are read again for every step."""
    mean, factor = _moments(x_ptr, row, real, X_STRIDE, GROUP, N, EPS, CENTERED, ROWS, BLOCK_N)
    scale = mean
    if QUANTIZE == "row":
        largest = tl.zeros((ROWS,), tl.float32)
        for start in range(0, N, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            x = _centered(x_ptr, row, real, column, mean, X_STRIDE, GROUP, N)
            y = _scaled(x, factor, weight_ptr, bias_ptr, column, column < N, WEIGHT, BIAS)
            largest = tl.maximum(largest, tl.max(tl.abs(y), axis=1))
        scale = row_scale(largest, out_ptr.dtype.element_ty)
        tl.store(scale_ptr + row.to(tl.int64) * SCALE_STRIDE, scale, mask=real)
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        x = _centered(x_ptr, row, real, column, mean, X_STRIDE, GROUP, N)
        y = _scaled(x, factor, weight_ptr, bias_ptr, column, column < N, WEIGHT, BIAS)
        _store(
            y, scale, out_ptr, scale_ptr, total_ptr, row, real, start,
            OUT_STRIDE, SCALE_STRIDE, GROUP, N, QUANTIZE, ROWS, BLOCK_N,
        )  # fmt: skip


@triton.jit
def rms_factor(squares, N: tl.constexpr, EPS: tl.constexpr):
    """1 / sqrt(mean + eps) of sums of N squares f32."""
    return 1.0 / tl.sqrt(squares / N + EPS)


@triton.jit
def row_factors(
    x_ptr, row, rows, X_STRIDE: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """f32[BLOCK_T]: rms factors of rows `row` i32[BLOCK_T] of x [rows, N]; zeros behind them.

    Squares are added up in 128 partial sums, element i into sum i % 128 by rising i, and those in
    halves (i with i + 64, i + 32, …). No layout, tile or number of warps changes that order, so
    any kernel that calls this gets the same bits for a row.
    """
    row = row.to(tl.int64)
    partial = tl.zeros((BLOCK_T, 128), tl.float32)
    for start in range(0, N, 128):
        column = start + tl.arange(0, 128)
        mask = (row < rows)[:, None] & (column < N)[None, :]
        x = tl.load(x_ptr + row[:, None] * X_STRIDE + column[None, :], mask=mask, other=0.0)
        x = x.to(tl.float32)
        partial = tl.fma(x, x, partial)
    squares = _halves(partial, BLOCK_T, 128)
    return rms_factor(squares, N, EPS)


@triton.jit
def _halves(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum over the last dimension, in halves."""
    if WIDTH == 1:
        return tl.reshape(x, (ROWS,))
    low, high = tl.split(tl.permute(tl.reshape(x, (ROWS, 2, WIDTH // 2)), (0, 2, 1)))
    return _halves(low + high, ROWS, WIDTH // 2)


@triton.jit
def _at(pointer, row, column, STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr):
    row = row.to(tl.int64)
    begin = row * STRIDE if GROUP == 1 else row // GROUP * STRIDE + row % GROUP * N
    return pointer + begin[:, None] + column[None, :]


@triton.jit
def _scaled(
    x, factor, weight_ptr, bias_ptr, column, inside, WEIGHT: tl.constexpr, BIAS: tl.constexpr
):
    y = x * factor[:, None]
    if WEIGHT:
        y *= tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    return y


@triton.jit
def _add(
    x_ptr, residual_ptr, sum_ptr, row, real,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
    GROUP: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        mask = real[:, None] & (column < N)[None, :]
        x = tl.load(_at(x_ptr, row, column, X_STRIDE, GROUP, N), mask=mask, other=0.0)
        at = _at(residual_ptr, row, column, RESIDUAL_STRIDE, GROUP, N)
        y = tl.load(at, mask=mask, other=0.0)
        total = x.to(tl.float32) + y.to(tl.float32)
        tl.store(_at(sum_ptr, row, column, SUM_STRIDE, GROUP, N), total, mask=mask)


@triton.jit
def _centered(
    source, row, real, column, mean, STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr
):
    """Elements minus the mean of their row; 0 behind a row's end."""
    mask = real[:, None] & (column < N)[None, :]
    x = tl.load(_at(source, row, column, STRIDE, GROUP, N), mask=mask, other=0.0)
    return tl.where(mask, x.to(tl.float32) - mean[:, None], 0.0)


@triton.jit
def _moments(
    source, row, real, STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr,
    EPS: tl.constexpr, CENTERED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(mean or 0, factor) of rows that are longer than a tile."""
    mean = tl.zeros((ROWS,), tl.float32)
    if CENTERED:
        sums = tl.zeros((ROWS, BLOCK_N), tl.float32)
        for start in range(0, N, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            sums += _centered(source, row, real, column, mean, STRIDE, GROUP, N)
        mean = tl.sum(sums, axis=1) / N
    squares = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        x = _centered(source, row, real, column, mean, STRIDE, GROUP, N)
        squares += x * x
    return mean, rms_factor(tl.sum(squares, axis=1), N, EPS)


@triton.jit
def _store(
    y, scale, out_ptr, scale_ptr, total_ptr, row, real, start,
    OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr,
    QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Stores one tile of normalized rows, as they are or as codes."""
    column = start + tl.arange(0, BLOCK_N)
    element: tl.constexpr = out_ptr.dtype.element_ty
    if QUANTIZE == "block":
        padded: tl.constexpr = (N + 31) // 32 * 32
        codes, scales, totals = block_codes(y, ROWS, BLOCK_N)
        mask = real[:, None] & (column < padded)[None, :]
        tl.store(_at(out_ptr, row, column, OUT_STRIDE, GROUP, padded), codes.to(element), mask=mask)
        block = start // BLOCK + tl.arange(0, BLOCK_N // BLOCK)
        mask = real[:, None] & (block < padded // 32)[None, :]
        tl.store(_at(scale_ptr, row, block, SCALE_STRIDE, 1, N), scales, mask=mask)
        tl.store(_at(total_ptr, row, block, SCALE_STRIDE, 1, N), totals, mask=mask)
    else:
        mask = real[:, None] & (column < N)[None, :]
        codes = row_codes(y, scale, element) if QUANTIZE == "row" else y.to(element)
        tl.store(_at(out_ptr, row, column, OUT_STRIDE, GROUP, N), codes, mask=mask)
