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
    ORDERED: tl.constexpr = False, PORTABLE: tl.constexpr = False,
):  # fmt: skip
    """Rows `ROWS * program …` of `rows`.

    Row r lies at element `r // GROUP * STRIDE + r % GROUP * N` (GROUP: the heads of a token, or 1).
    CENTERED: layer_norm, else rms_norm. ADD: x + residual is what is normalized, and is stored at
    `sum_ptr`. QUANTIZE "": out is the rows; "block": i8 codes, padded with 0 to whole blocks of 32,
    whose scales and totals lie SCALE_STRIDE elements a row; "row": codes i8 or 8-bit float, one
    scale a row, no totals. Pointers that aren't used may be anything. The sum may overwrite the
    residual or x, and so may `out_ptr` without QUANTIZE. BLOCK_N is a power of 2, at least 32 where
    codes are in blocks; rows that are longer than it are read again for every step. ORDERED:
    squares of an rms_norm are added up as `row_factors` does; nothing is overwritten, GROUP is 1,
    and the sum is f32.
    """
    if not PORTABLE:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if BLOCK_N >= N:
        _short(
            x_ptr, residual_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scale_ptr, total_ptr,
            row, rows, X_STRIDE, RESIDUAL_STRIDE, SUM_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, ADD, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N, ORDERED,
        )  # fmt: skip
    elif ADD:
        _add(
            x_ptr, residual_ptr, sum_ptr, row, row < rows,
            X_STRIDE, RESIDUAL_STRIDE, SUM_STRIDE, GROUP, N, BLOCK_N,
        )  # fmt: skip
        tl.debug_barrier()  # other threads of the program read the sums
        _long(
            sum_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, rows,
            SUM_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N, ORDERED,
        )  # fmt: skip
    else:
        _long(
            x_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, rows,
            X_STRIDE, OUT_STRIDE, SCALE_STRIDE,
            GROUP, N, EPS, CENTERED, WEIGHT, BIAS, QUANTIZE, ROWS, BLOCK_N, ORDERED,
        )  # fmt: skip


@triton.jit
def _short(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scale_ptr, total_ptr, row, rows,
    X_STRIDE: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr,
    EPS: tl.constexpr, CENTERED: tl.constexpr, ADD: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    ORDERED: tl.constexpr,
):  # fmt: skip
    """Rows that a tile holds."""
    real = row < rows
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
    if ORDERED:
        factor = row_factors(
            x_ptr, residual_ptr if ADD else None, None, row, rows, 0,
            X_STRIDE, RESIDUAL_STRIDE, 0, N, EPS, ROWS,
        )  # fmt: skip
    else:
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
    x_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, total_ptr, row, rows,
    X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr,
    GROUP: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr, CENTERED: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """Rows of several tiles, which are read again for every step."""
    real = row < rows
    if ORDERED:
        mean = tl.zeros((ROWS,), tl.float32)
        factor = row_factors(x_ptr, None, None, row, rows, 0, X_STRIDE, 0, 0, N, EPS, ROWS)
    else:
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
    return 1.0 / tl.sqrt(tl.fma(squares, 1.0 / N, EPS))


@triton.jit
def row_factors(
    x_ptr, added_ptr, sum_ptr, row, rows, tile, X_STRIDE: tl.constexpr,
    ADDED_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """f32[BLOCK_T]: rms factors of rows `row` i32[BLOCK_T] of x + added [rows, N].

    Rows from `rows` on are taken for zeros. `added_ptr` may be None. The sums are stored at
    `sum_ptr`, unless it is None, by the programs that have `tile` 0.

    Squares are added up in 512 partial sums (or as many as N's power of two), element i into sum
    i % 512 by rising i, each with one `fma`; then neighbours in pairs, and those in pairs. Every
    addition is written out, none is left to the compiler, so no layout, tile or number of warps
    changes their order: any kernel that calls this gets the same bits for a row, on a GPU too.
    """
    WIDTH: tl.constexpr = 512 if N >= 512 else triton.next_power_of_2(N)
    FULL: tl.constexpr = N // WIDTH * WIDTH
    row = row.to(tl.int64)[:, None]
    place, real = tl.arange(0, WIDTH)[None, :], row < rows
    partial = tl.zeros((BLOCK_T, WIDTH), tl.float32)
    for start in tl.range(0, FULL, WIDTH, loop_unroll_factor=8):
        x = _summed(
            x_ptr, added_ptr, sum_ptr, row, start + place, real, tile,
            X_STRIDE, ADDED_STRIDE, SUM_STRIDE,
        )  # fmt: skip
        partial = tl.fma(x, x, partial)
    if FULL < N:
        x = _summed(
            x_ptr, added_ptr, sum_ptr, row, FULL + place, real & (FULL + place < N), tile,
            X_STRIDE, ADDED_STRIDE, SUM_STRIDE,
        )  # fmt: skip
        partial = tl.fma(x, x, partial)
    return rms_factor(_pairs(partial, BLOCK_T, WIDTH), N, EPS)


@triton.jit
def _summed(
    x_ptr, added_ptr, sum_ptr, row, column, real, tile, X_STRIDE: tl.constexpr,
    ADDED_STRIDE: tl.constexpr, SUM_STRIDE: tl.constexpr,
):  # fmt: skip
    """f32: x + added at [row, column] where `real`, else 0; tile 0 stores the sum."""
    x = tl.load(x_ptr + row * X_STRIDE + column, mask=real, other=0.0).to(tl.float32)
    if added_ptr is not None:
        x += tl.load(added_ptr + row * ADDED_STRIDE + column, mask=real, other=0.0).to(tl.float32)
    if sum_ptr is not None:
        tl.store(sum_ptr + row * SUM_STRIDE + column, x, mask=real & (column * 0 + tile == 0))
    return x


@triton.jit
def _pairs(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum over the last dimension: of neighbours, of these sums' neighbours, and so on."""
    if WIDTH == 1:
        return tl.reshape(x, (ROWS,))
    else:  # noqa: RET505 - Triton compiles what stands behind a branch that is taken
        first, second = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
        return _pairs(first + second, ROWS, WIDTH // 2)


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
