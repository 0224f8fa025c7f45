"""Rows of one head go into the paged cache: a step's keys and values, rounded or coded.

A head of a block is keys [64, KEY_WIDTH], values [64, VALUE_WIDTH] (sizes rounded up to 16), and
in an int8 cache the 64 scales f32 of the keys, then those of the values.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cache_codes import encode_keys, encode_values, hadamard


@triton.jit
def elements_of_head(pool_ptr, KEY: tl.constexpr, VALUE: tl.constexpr):
    """From one head of a block to the next, in the cache's elements."""
    SCALES: tl.constexpr = 512 if pool_ptr.dtype.element_ty == tl.int8 else 0
    WIDTHS: tl.constexpr = (KEY + 15) // 16 * 16 + (VALUE + 15) // 16 * 16
    return 64 * WIDTHS + SCALES


@triton.jit
def write_keys(at, place, keys, owned, KEY: tl.constexpr, VALUE: tl.constexpr):
    """keys f32 [rows, KEY_BLOCK], zeros from KEY on; at [rows]: the head's part of each row's
    block; place i32[rows] in it. Rows that aren't owned are not written."""
    WIDTH: tl.constexpr = (KEY + 15) // 16 * 16
    columns = tl.arange(0, keys.shape[1])[None, :]
    if at.dtype.element_ty == tl.int8:
        SIZE: tl.constexpr = WIDTH & -WIDTH
        keys, scale = encode_keys(hadamard(keys, SIZE), SIZE)
        tl.store(_scales(at, KEY, VALUE) + place, scale, mask=owned)
    # Padding up to the width is written, too: zeros, or an int8 key's rotated elements.
    stored = owned[:, None] & (columns < WIDTH)
    to = at[:, None] + place[:, None] * WIDTH + columns
    tl.store(to, keys.to(at.dtype.element_ty), mask=stored)


@triton.jit
def write_values(at, place, values, owned, KEY: tl.constexpr, VALUE: tl.constexpr):
    """values f32 [rows, VALUE_BLOCK]; the rest as for keys."""
    BEFORE: tl.constexpr = 64 * ((KEY + 15) // 16 * 16)
    WIDTH: tl.constexpr = (VALUE + 15) // 16 * 16
    columns = tl.arange(0, values.shape[1])[None, :]
    if at.dtype.element_ty == tl.int8:
        values, scale = encode_values(values)
        tl.store(_scales(at, KEY, VALUE) + 64 + place, scale, mask=owned)
    stored = owned[:, None] & (columns < WIDTH)
    to = at[:, None] + BEFORE + place[:, None] * WIDTH + columns
    tl.store(to, values.to(at.dtype.element_ty), mask=stored)


@triton.jit
def _scales(at, KEY: tl.constexpr, VALUE: tl.constexpr):
    """Where the scales of a head's keys begin."""
    ELEMENTS: tl.constexpr = 64 * ((KEY + 15) // 16 * 16 + (VALUE + 15) // 16 * 16)
    return (at + ELEMENTS).to(tl.pointer_type(tl.float32))
