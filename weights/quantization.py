"""Number formats of weights and activations: what a quantized tensor means.

In: float32 rows. Out: integer codes with their scales, and back. These functions define the formats
that the kernels compute with; packing for a machine is the backend's business.

Formats (K is the input dimension; blocks are 32 consecutive elements along K):

| format | code            | value             | side data                     | same bits as |
|--------|-----------------|-------------------|-------------------------------|--------------|
| `i8c`  | i8, -127..127   | `s[n] * q`        | f32 scale per row             |              |
| `i8b`  | i8, -128..127   | `d * q`           | f16 scale per block           | GGUF Q8_0    |
| `i4s`  | u8, 0..15       | `d * (q - 8)`     | f16 scale per block           | GGUF Q4_0    |
| `i4a`  | u8, 0..15       | `d * q + m`       | f16 scale and min per block   | GGUF Q4_1    |

The 4-bit scales are found by a short search: for some scales near the one that spans the block,
round, then fit the scale to the codes by least squares, and keep what has the least squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

Array = np.ndarray

BLOCK = 32
"""Elements of one quantization block, for weights and for activations."""

_F16_MAX = 65504.0
# Elements that are quantized together: small enough that the float32 working set of the scale
# search stays in a core's L2 cache, large enough that numpy's call overhead doesn't show.
_CHUNK = 1 << 15
# Search candidates. i4s: the code (in magnitude) that the largest element gets. i4a: the part of
# the block's range that codes 0..15 span. More candidates lower the error by less than 1 %.
_I4S_EXTREMES = (8.0, 8.6, 7.4)
_I4A_SPANS = (1.0, 0.92, 0.84)


class WeightFormat(StrEnum):
    """How a weight matrix is stored; `f32` and `bf16` are not quantized."""

    F32 = "f32"
    BF16 = "bf16"
    I8C = "i8c"
    I8B = "i8b"
    I4S = "i4s"
    I4A = "i4a"

    @property
    def is_quantized(self) -> bool:
        return self not in (WeightFormat.F32, WeightFormat.BF16)

    @property
    def is_blocked(self) -> bool:
        """Scales are per block of 32 along K, not per row."""
        return self in (WeightFormat.I8B, WeightFormat.I4S, WeightFormat.I4A)

    @property
    def zero_code(self) -> int:
        """The code that columns past K hold (activations are 0 there, so it has no effect)."""
        return 8 if self is WeightFormat.I4S else 0


HELD_FORMATS: dict[str, tuple[WeightFormat, ...]] = {
    "q4_0": (WeightFormat.I4S, WeightFormat.I4A, WeightFormat.I8B),
    "q4_1": (WeightFormat.I4A,),
    "q8_0": (WeightFormat.I8B,),
}
"""Block formats of checkpoints, and our formats that hold exactly the same values, best first."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Rows of a quantized matrix.

    `codes` [N, Kp] (i8 for the 8-bit formats, u8 for the 4-bit ones), Kp = K rounded up to 32;
    `scales` f16 [N, Kp/32], or f32 [N] for `i8c`; `mins` f16 [N, Kp/32] for `i4a`, else None;
    `k` the columns that hold weights. Columns past `k` hold the format's zero code.
    """

    format: WeightFormat
    codes: Array
    scales: Array
    mins: Array | None
    k: int

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    def take(self, index: Array | slice) -> Quantized:
        """The rows that `index` selects."""
        mins = None if self.mins is None else self.mins[index]
        return Quantized(self.format, self.codes[index], self.scales[index], mins, self.k)

    def is_finite(self) -> bool:
        """No scale or minimum is NaN or infinite."""
        return bool(
            np.isfinite(self.scales).all() and (self.mins is None or np.isfinite(self.mins).all())
        )


def concatenate(parts: list[Quantized]) -> Quantized:
    """The rows of all `parts` behind one another.

    Raises:
        ValueError: no parts, or they differ in format or K.
    """
    if len({(p.format, p.k) for p in parts}) != 1:
        raise ValueError("quantized parts must exist and agree in format and K")
    first = parts[0]
    if len(parts) == 1:
        return first
    mins = [p.mins for p in parts if p.mins is not None]
    return Quantized(
        first.format,
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.scales for p in parts]),
        np.concatenate(mins) if mins else None,
        first.k,
    )


def zero_rows(format: WeightFormat, rows: int, k: int) -> Quantized:
    """Rows that mean zero: the padding of an output dimension."""
    padded = padded_k(k)
    codes = np.full((rows, padded), format.zero_code, _code_dtype(format))
    if format is WeightFormat.I8C:
        return Quantized(format, codes, np.zeros(rows, np.float32), None, k)
    scales = np.zeros((rows, padded // BLOCK), np.float16)
    return Quantized(format, codes, scales, scales if format is WeightFormat.I4A else None, k)


def padded_k(k: int) -> int:
    """K rounded up to whole blocks."""
    return -(-k // BLOCK) * BLOCK


def quantize(weights: Array, format: WeightFormat | str) -> Quantized:
    """Quantizes finite float32 `weights` [N, K] to `format`.

    Raises:
        ValueError: not two-dimensional, or `format` isn't a quantized format.
    """
    format = WeightFormat(format)
    if weights.ndim != 2:
        raise ValueError(f"weights must be [N, K], not {weights.shape}")
    weights = np.asarray(weights, np.float32)
    if format is WeightFormat.I8C:
        return _quantize_channels(weights)
    if not format.is_quantized:
        raise ValueError(f"{format} is not a quantized format")
    n, k = weights.shape
    blocks = padded_k(k) // BLOCK
    codes = np.empty((n, blocks * BLOCK), _code_dtype(format))
    scales = np.empty((n, blocks), np.float16)
    mins = np.empty((n, blocks), np.float16) if format is WeightFormat.I4A else None
    step = max(1, _CHUNK // max(1, blocks * BLOCK))
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        q, d, m = _BLOCK_QUANTIZERS[format](_block_columns(weights[rows]))
        count = (rows.stop - start) * blocks
        codes[rows] = q[:, :count].T.reshape(-1, blocks * BLOCK)
        scales[rows] = d[:count].reshape(-1, blocks)
        if mins is not None and m is not None:
            mins[rows] = m[:count].reshape(-1, blocks)
    codes[:, k:] = format.zero_code
    return Quantized(format, codes, scales, mins, k)


def dequantize(quantized: Quantized) -> Array:
    """The float32 values [N, K] that `quantized` stands for."""
    n, format = quantized.rows, quantized.format
    if format is WeightFormat.I8C:
        values = quantized.codes.astype(np.float32) * quantized.scales[:, None]
        return values[:, : quantized.k]
    values = quantized.codes.astype(np.float32).reshape(n, -1, BLOCK)
    if format is WeightFormat.I4S:
        values -= 8.0
    values *= quantized.scales.astype(np.float32)[..., None]
    if quantized.mins is not None:
        values += quantized.mins.astype(np.float32)[..., None]
    return np.ascontiguousarray(values.reshape(n, -1)[:, : quantized.k])


def quantize_rows(x: Array) -> tuple[Array, Array, Array]:
    """Dynamic quantization of activations: float32 [T, K] to int8 blocks of 32.

    Returns `q` i8 [T, Kp], `scale` f32 [T, Kp/32] and `sum` f32 [T, Kp/32], where
    `scale = max|x| / 127`, `q = round_half_even(x / scale)` and `sum = scale * sum(q)`. A block of
    zeros has scale 0. `sum` is what a kernel multiplies a block's minimum (or offset) with.
    """
    t, k = x.shape
    padded = np.zeros((t, padded_k(k)), np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(t, -1, BLOCK)
    scale = np.abs(blocks).max(axis=2) / np.float32(127)
    q = np.rint(blocks * _reciprocal(scale)[..., None]).clip(-127, 127).astype(np.int8)
    total = scale * q.sum(axis=2, dtype=np.int32).astype(np.float32)
    return q.reshape(t, -1), scale, total


def to_bf16(values: Array) -> Array:
    """Bits (u16) of finite float32 `values` rounded to bfloat16, half to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """float32 values of bfloat16 `bits` (u16)."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _code_dtype(format: WeightFormat) -> type[np.generic]:
    return np.int8 if format in (WeightFormat.I8C, WeightFormat.I8B) else np.uint8


def _reciprocal(scale: Array) -> Array:
    """1 / scale, and 0 where it is 0 or the quotient would overflow."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale.astype(np.float32)
    inverse[~np.isfinite(inverse)] = 0.0
    return inverse


def _block_columns(rows: Array) -> Array:
    """Blocks of `rows` as columns [32, B], so that numpy reduces with vectors along B.

    K is padded with the last column, which doesn't widen a block's range. A single block gets a
    second column: numpy sums a lone column in another order, and a row's codes must not depend on
    how many rows are quantized together.
    """
    missing = -rows.shape[1] % BLOCK
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)), mode="edge")
    columns = rows.reshape(-1, BLOCK).T
    return np.ascontiguousarray(columns if columns.shape[1] > 1 else columns.repeat(2, axis=1))


def _half(values: Array) -> Array:
    """Scales or minima as float16; OverflowError where they don't fit, never a clipped scale."""
    if values.size and not np.abs(values).max() <= _F16_MAX:
        raise OverflowError("a block's scale is beyond float16")
    return values.astype(np.float16)


def _quantize_channels(weights: Array) -> Quantized:
    n, k = weights.shape
    scales = np.maximum(weights.max(axis=1, initial=0), -weights.min(axis=1, initial=0))
    scales /= np.float32(127)
    codes = np.zeros((n, padded_k(k)), np.int8)
    step = max(1, _CHUNK // max(1, k))
    inverse = _reciprocal(scales)[:, None]
    for start in range(0, n, step):
        rows = slice(start, start + step)
        scaled = weights[rows] * inverse[rows]
        codes[rows, :k] = np.rint(scaled, out=scaled).clip(-127, 127)
    return Quantized(WeightFormat.I8C, codes, scales, None, k)


def _quantize_i8b(x: Array) -> tuple[Array, Array, Array | None]:
    """`x` [32, B] -> codes [32, B], scales [B]."""
    scale = _half(np.maximum(x.max(axis=0), -x.min(axis=0)) / np.float32(127))
    q = x * _reciprocal(scale)
    return np.rint(q, out=q).clip(-127, 127).astype(np.int8), scale, None


def _quantize_i4s(x: Array) -> tuple[Array, Array, Array | None]:
    """`x` [32, B] -> codes 0..15 [32, B], scales [B].

    Codes reach from -8 to 7, so the element of largest magnitude takes the side of -8 and gives
    the scale its sign, as in GGUF's Q4_0.
    """
    high, low = x.max(axis=0), x.min(axis=0)
    extreme = np.where(high > -low, high, low)
    inverse = _reciprocal(extreme)
    best, scale, q = np.full_like(extreme, -1.0), np.zeros_like(extreme), np.empty_like(x)
    for code in _I4S_EXTREMES:
        _round_codes(x, inverse * np.float32(-code), -8, 7, q)
        xq, qq = np.einsum("kb,kb->b", x, q), np.einsum("kb,kb->b", q, q)
        fitted = xq / np.maximum(qq, 1.0)
        gain = fitted * xq  # by how much the squared error is below that of all zeros
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]
    rounded = _half(scale)
    _round_codes(x, _reciprocal(rounded), -8, 7, q)
    q += 8.0
    return q.astype(np.uint8), rounded, None


def _quantize_i4a(x: Array) -> tuple[Array, Array, Array | None]:
    """`x` [32, B] -> codes 0..15 [32, B], scales [B], mins [B]."""
    high, low = x.max(axis=0), x.min(axis=0)
    mean = x.mean(axis=0)
    centred = x - mean
    best = np.full_like(low, -1.0)
    scale, offset, q = np.zeros_like(low), np.zeros_like(low), np.empty_like(x)
    for span in _I4A_SPANS:
        trim = (high - low) * np.float32((1 - span) / 2)
        inverse = _reciprocal((high - low) * np.float32(span / 15))
        _round_codes(x, inverse, 0, 15, q, shift=(low + trim) * inverse)
        # Least squares for x = d*q + m: d = cov(x, q) / var(q), m = mean(x) - d * mean(q).
        q_mean = q.mean(axis=0)
        cov = np.einsum("kb,kb->b", centred, q)
        var = np.einsum("kb,kb->b", q, q) - BLOCK * q_mean * q_mean
        fitted = cov / np.maximum(var, np.float32(0.5))
        gain = fitted * cov
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]
        offset[better] = (mean - fitted * q_mean)[better]
    d, m = _half(scale), _half(offset)
    inverse = _reciprocal(d)
    _round_codes(x, inverse, 0, 15, q, shift=m.astype(np.float32) * inverse)
    return q.astype(np.uint8), d, m


def _round_codes(
    x: Array, inverse: Array, low: int, high: int, out: Array, shift: Array | None = None
) -> None:
    """`out = clip(round(x * inverse - shift), low, high)`, without temporaries."""
    np.multiply(x, inverse, out=out)
    if shift is not None:
        np.subtract(out, shift, out=out)
    np.rint(out, out=out)
    np.clip(out, low, high, out=out)


_BLOCK_QUANTIZERS: dict[WeightFormat, Callable[[Array], tuple[Array, Array, Array | None]]] = {
    WeightFormat.I8B: _quantize_i8b,
    WeightFormat.I4S: _quantize_i4s,
    WeightFormat.I4A: _quantize_i4a,
}
