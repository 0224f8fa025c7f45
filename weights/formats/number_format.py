"""What a number format is: integer codes, their scales, and the float32 values they stand for.

In: float32 rows [N, K]. Out: `Quantized` rows, and back. A format is a subclass of `NumberFormat`
in a file of its own, which says the facts below and how codes are chosen. Layouts and code
generators ask these facts; how a machine wants its bytes is their business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.tiles import BLOCK
from ...ir.types import DType

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Rows of a quantized matrix.

    `codes` [N, Kp] in the format's `code_type`, Kp = K rounded up to whole blocks; `k` the columns
    that hold weights. Columns past `k` hold the format's zero code.

    `scales`: f32 [N] if the format is `per_row`, else f16 [N, blocks]; `mins` f16 [N, blocks] if it
    `has_mins`, else None. If it `has_super_blocks`, both are f16 [N, super-blocks], and a block's
    scale is that of its super-block times its number of `factors` [N, blocks] (u8 or i8), its
    minimum that of the super-block times its number of `min_factors` (u8).
    """

    format: NumberFormat
    codes: Array
    scales: Array
    mins: Array | None
    k: int
    factors: Array | None = None
    min_factors: Array | None = None

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    def take(self, index: Array | slice) -> Quantized:
        """The rows that `index` selects."""
        return _each([self], lambda arrays: arrays[0][index])

    def is_finite(self) -> bool:
        """No scale or minimum is NaN or infinite, and no code where it is a float."""
        numbers = [self.scales, *([] if self.mins is None else [self.mins])]
        if self.format.float_codes:
            numbers.append(self.format.numbers(self.codes))
        return all(bool(np.isfinite(each).all()) for each in numbers)

    def block_scales(self) -> Array:
        """f32 [N, blocks], exact (11 bits times 8), or f32 [N] if the format is `per_row`."""
        return self._of_blocks(self.scales, self.factors)

    def block_mins(self) -> Array | None:
        """Minima f32 [N, blocks], exact; None if the format has none."""
        return None if self.mins is None else self._of_blocks(self.mins, self.min_factors)

    def _of_blocks(self, values: Array, factors: Array | None) -> Array:
        wide = values.astype(np.float32)
        if factors is None:
            return wide
        return wide[:, self.format.super_block_of(self.k)] * factors.astype(np.float32)


class NumberFormat(ABC):
    """A quantized format: `value = scale * number(code) + minimum`."""

    dtype: ClassVar[DType]
    """The element type that weights in this format have in a graph."""
    code_type: ClassVar[type[np.generic]]
    """numpy's type of `Quantized.codes`: i8 or u8."""
    bits: ClassVar[int]
    """Bits of a code: 8, or fewer for codes 0 .. 2^bits - 1."""
    zero_code: ClassVar[int] = 0
    """The code of the value 0 (with a minimum: of the minimum), and of columns past K."""
    block: ClassVar[int] = BLOCK
    """Columns that codes are padded to a multiple of; they share a scale unless `per_row`."""
    per_row: ClassVar[bool] = False
    """One f32 scale a row, instead of one f16 scale a block."""
    float_codes: ClassVar[bool] = False
    """Codes are bits of small floats; else their number is `code - zero_code`."""
    has_mins: ClassVar[bool] = False
    """Each block has a minimum; codes count up from it."""
    has_super_blocks: ClassVar[bool] = False
    """Scales and minima of blocks are small integers times those of their super-block."""
    holds: ClassVar[frozenset[str]] = frozenset()
    """Block formats of checkpoints whose values this format holds exactly."""

    @abstractmethod
    def quantize(self, weights: Array) -> Quantized:
        """Finite float32 `weights` [N, K] in this format.

        Raises:
            OverflowError: a block's scale or minimum is beyond float16.
        """

    def dequantize(self, quantized: Quantized) -> Array:
        """The float32 values [N, K] that rows of this format stand for."""
        codes = self.numbers(quantized.codes)
        scales, mins = quantized.block_scales(), quantized.block_mins()
        if self.per_row:
            return (codes * scales[:, None])[:, : quantized.k]
        values = codes.reshape(quantized.rows, -1, self.block)
        values *= scales[..., None]
        if mins is not None:
            values += mins[..., None]
        return np.ascontiguousarray(values.reshape(quantized.rows, -1)[:, : quantized.k])

    def numbers(self, codes: Array) -> Array:
        """float32 numbers of `codes`, to be multiplied with scales."""
        numbers = codes.astype(np.float32)
        if self.zero_code:
            numbers -= np.float32(self.zero_code)
        return numbers

    def hold(self, stored: Quantized) -> Quantized | None:
        """The same values in this format, which `holds` them; None if a number would overflow.

        `stored` is in the format that has the same bits as the checkpoint's blocks.
        """
        return stored if stored.format is self else None

    def zero_rows(self, rows: int, k: int) -> Quantized:
        """Rows that mean zero: the padding of an output dimension."""
        codes = np.full((rows, self.padded(k)), self.zero_code, self.code_type)
        if self.per_row:
            return Quantized(self, codes, np.zeros(rows, np.float32), None, k)
        count = self.super_blocks(k) if self.has_super_blocks else self.blocks(k)
        scales = np.zeros((rows, count), np.float16)
        factors = np.zeros((rows, self.blocks(k)), np.uint8) if self.has_super_blocks else None
        if self.has_mins:
            return Quantized(self, codes, scales, scales, k, factors, factors)
        return Quantized(self, codes, scales, None, k, factors)

    def packed(self, codes: Array, *, unsigned: bool = False) -> Array:
        """Codes [N, C] as bytes u8 [N, C * row_bits / 8]; two 4-bit codes share a byte, the first
        in the low half, as in ONNX's int4 (onnx.proto) and in TensorRT's.

        Codes around zero become two's complement, or unsigned with half their range added. Codes
        that count up from a minimum are unsigned by nature, and floats stay as they are.
        """
        codes = codes.view(np.uint8)
        half = 1 << (self.row_bits - 1)
        fixed = self.has_mins or self.float_codes
        shift = 0 if fixed else (half if unsigned else 0) - self.zero_code
        if shift:
            codes = codes + np.uint8(shift % 256)
        if self.row_bits == 8:
            return codes
        if shift:
            codes &= np.uint8(15)
        return codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)

    @property
    def row_bits(self) -> int:
        """Bits that a code takes where rows are stored code after code: 4, or a whole byte."""
        return 4 if self.bits == 4 else 8

    def blocks(self, k: int) -> int:
        """Blocks of a row of `k` columns."""
        return -(-k // self.block)

    def padded(self, k: int) -> int:
        """Columns of `Quantized.codes`: `k` rounded up to whole blocks."""
        return self.blocks(k) * self.block

    def super_blocks(self, k: int) -> int:
        """Super-blocks of a row of `k` columns."""
        blocks = -(-k // BLOCK)
        return -(-blocks // super_block_length(blocks))

    def super_block_of(self, k: int) -> Array:
        """The super-block of each block of a row of `k` columns."""
        length = super_block_length(-(-k // BLOCK)) * BLOCK
        return np.arange(self.blocks(k)) * self.block // length


def super_block_length(blocks: int) -> int:
    """Times 32 columns that a super-block of a row of `blocks` times 32 columns spans.

    8, as in GGUF's K-quants, wherever these can be; else 10 to 5, whichever leaves the fewest
    columns of the last one empty (rows of 640 are twice 10, rows of 576 twice 9).
    """
    if blocks % 8 == 0:
        return 8
    return min(range(min(blocks, 10), min(blocks, 5) - 1, -1), key=lambda n: -blocks % n)


def concatenate(parts: Sequence[Quantized]) -> Quantized:
    """The rows of all `parts` behind one another.

    Raises:
        ValueError: no parts, or they differ in format or K.
    """
    if len({(p.format, p.k) for p in parts}) != 1:
        raise ValueError("quantized parts must exist and agree in format and K")
    return parts[0] if len(parts) == 1 else _each(parts, np.concatenate)


def _each(parts: Sequence[Quantized], change: Callable[[list[Array]], Array]) -> Quantized:
    """`change` of each array that rows have, over all `parts`."""

    def of(arrays: list[Array | None]) -> Array | None:
        present = [a for a in arrays if a is not None]
        return change(present) if present else None

    first = parts[0]
    return Quantized(
        first.format,
        change([p.codes for p in parts]),
        change([p.scales for p in parts]),
        of([p.mins for p in parts]),
        first.k,
        of([p.factors for p in parts]),
        of([p.min_factors for p in parts]),
    )
