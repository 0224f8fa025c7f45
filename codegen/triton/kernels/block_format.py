"""Facts of the number formats with scales per block, for kernels: where in memory what begins.

They follow from a format's name, the panels of all experts and the columns, as
`codegen/triton/mma_panels.py` stores them; the functions run while a kernel is compiled.
"""

from __future__ import annotations

import triton


@triton.constexpr_function
def code_bits(FORMAT):
    """Bits of a code."""
    return int(FORMAT[1])


@triton.constexpr_function
def zero_code(FORMAT):
    """The code that is subtracted: formats with minima, and 8 bits, have none."""
    return {"i4s": 8, "i5s": 16, "i6k": 32}.get(FORMAT, 0)


@triton.constexpr_function
def has_mins(FORMAT):
    """Whether blocks have minima."""
    return FORMAT in ("i4a", "i5a", "i4k", "i5k")


@triton.constexpr_function
def has_factors(FORMAT):
    """Whether blocks' scales are whole numbers times that of a super-block."""
    return FORMAT[2] == "k"


@triton.constexpr_function
def super_length(K):
    """Blocks of 32 columns that a super-block spans."""
    blocks = -(-K // 32)
    if blocks % 8 == 0:
        return 8
    return min(range(min(blocks, 10), min(blocks, 5) - 1, -1), key=lambda n: -blocks % n)


@triton.constexpr_function
def scales_per_row(FORMAT, K):
    """Scales of a row: its blocks, or its super-blocks."""
    blocks = -(-K // 32)
    return -(-blocks // super_length(K)) if FORMAT[2] == "k" else blocks


@triton.constexpr_function
def section_at(FORMAT, PANELS, K, NAME):
    """The byte that a section begins at."""
    blocks, bits = -(-K // 32), int(FORMAT[1])
    scales = scales_per_row(FORMAT, K) * 32
    sizes = {
        "codes": blocks * (512 if bits == 8 else 256),
        "high": blocks * {5: 64, 6: 128}.get(bits, 0),
        "scales": scales,
        "mins": scales * has_mins(FORMAT),
        "factors": blocks * 32,
    }
    at = 0
    for name, size in sizes.items():
        if name == NAME:
            return at
        at += -(-PANELS * size // 64) * 64
    raise ValueError(f"no section {NAME}")
