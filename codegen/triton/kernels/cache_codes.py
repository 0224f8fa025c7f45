"""The int8 cache's codes: rows of keys and values to codes and scales, as the ops define them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def hadamard(x, SIZE: tl.constexpr):
    """x [rows, D], each run of SIZE elements times the Hadamard matrix; powers of two, f32.

    Sums are made in the order of the ops' reference, so that their bits are the same.
    """
    ROWS: tl.constexpr = x.shape[0]
    WIDTH: tl.constexpr = x.shape[1]
    STEPS: tl.constexpr = SIZE.bit_length() - 1
    for i in tl.static_range(STEPS):
        pairs = tl.reshape(x, (ROWS, WIDTH // (2 << i), 2, 1 << i))
        low, high = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
        both = tl.permute(tl.join(low + high, low - high), (0, 1, 3, 2))
        x = tl.reshape(both, (ROWS, WIDTH))
    return x


@triton.jit
def encode_keys(x, SIZE: tl.constexpr):
    """Rotated keys [rows, D] → codes int8 [rows, D] and scales f32 [rows]."""
    scale = tl.div_rn(tl.max(tl.abs(x), 1), 127.0)
    inverse = tl.where(scale > 0, tl.div_rn(1.0, tl.where(scale > 0, scale, 1.0)), 0.0)
    return round_even(x * inverse[:, None]).to(tl.int8), scale / SIZE


@triton.jit
def encode_values(x):
    """Values [rows, D] → codes int8 [rows, D] and scales f32 [rows], powers of two."""
    largest = tl.div_rn(tl.max(tl.abs(x), 1), 127.0)
    bits = largest.to(tl.int32, bitcast=True)
    # The exponent rounded up: a mantissa that isn't 0 carries into it. Never below 2^-60.
    exponent = tl.maximum((bits + 0x7FFFFF) >> 23, 127 - 60)
    exponent = tl.where(largest > 0, exponent, 127)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    return round_even(x * inverse[:, None]).to(tl.int8), scale


@triton.jit
def round_even(x):
    """To the nearest whole number, ties to even, for |x| < 2^22, as i32."""
    below = tl.floor(x)
    rest = x - below
    whole = below.to(tl.int32)
    up = (rest > 0.5) | ((rest == 0.5) & (whole % 2 != 0))
    return whole + up.to(tl.int32)
