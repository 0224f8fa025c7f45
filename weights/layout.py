"""The contract of a weight layout: how matrices become bytes.

A matrix is stored as one or several *sections* behind one another, each at a multiple of
`ALIGNMENT`: panels alone, or codes, then scales, then what else a format has. Their sizes follow
from format and shape, so a program knows its offsets before any weight is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..ir.types import DType
from .formats.number_format import Quantized

ALIGNMENT = 64
"""Bytes that every section starts at a multiple of."""


class Layout(Protocol):
    """Where the bytes of a matrix [N, K], or of E matrices [E, N, K], lie."""

    @property
    def name(self) -> str:
        """Equal names mean equal bytes: targets of one layout share one weights entry."""
        ...

    def sections(self, dtype: DType, shape: Sequence[int]) -> tuple[int, ...]:
        """Bytes of each section.

        Raises:
            LlmcError: LLMC-E0231, the layout's target doesn't take this format; LLMC-E0416, the
                matrix is larger than it takes.
        """
        ...

    def pack(self, dtype: DType, rows: Quantized | np.ndarray) -> tuple[np.ndarray, ...]:
        """Bytes (u8) that consecutive rows add to each section.

        `rows` is `Quantized` for number formats, float32 [rows, K] for plain element types.

        Raises:
            ValueError: `rows` isn't of that format.
        """
        ...


def aligned(nbytes: int) -> int:
    """Rounded up to a multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def section_offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each section starts, counted from the first one's start."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += aligned(size)
    return tuple(offsets)


def total_bytes(sizes: Sequence[int]) -> int:
    """From the first section's start to the last one's end."""
    return section_offsets(sizes)[-1] + sizes[-1]
