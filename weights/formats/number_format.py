"""What a number format is: integer codes, their scales, and the float32 values they stand for.

In: float32 rows [N, K]. Out: `Quantized` rows, and back. A format is a subclass of `NumberFormat`
in a file of its own, which says the facts below and how codes are chosen. Layouts and code
generators ask these facts; how a machine wants its bytes is their business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...ir.tiles import BLOCK
from ...ir.types import DType

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Rows of a quantized matrix.

    `codes` [N, Kp] in the format's `code_type`, Kp = K rounded up to whole blocks; `scales` f16
    [N, Kp/block], or f32 [N] if the format is `per_row`; `mins` f16 [N, Kp/block] if it `has_mins`,
    else None; `k` the columns that hold weights. Columns past `k` hold the format's zero code.
    """

    format: NumberFormat
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
        return replace(self, codes=self.codes[index], scales=self.scales[index], mins=mins)

    def is_finite(self) -> bool:
        """No scale or minimum is NaN or infinite."""
        return bool(
            np.isfinite(self.scales).all() and (self.mins is None or np.isfinite(self.mins).all())
        )


class NumberFormat(ABC):
    """A quantized format: `value = scale * (code - zero_code) + minimum`."""

    dtype: ClassVar[DType]
    """The element type that weights in this format have in a graph."""
    code_type: ClassVar[type[np.generic]]
    """numpy's type of `Quantized.codes`: i8 or u8."""
    bits: ClassVar[int]
    """Bits that a code takes where rows are stored: 8, or 4 for codes 0..15."""
    zero_code: ClassVar[int] = 0
    """The code of the value 0 (with a minimum: of the minimum), and of columns past K."""
    block: ClassVar[int] = BLOCK
    """Columns that codes are padded to a multiple of; they share a scale unless `per_row`."""
    per_row: ClassVar[bool] = False
    """One f32 scale a row, instead of one f16 scale a block."""
    has_mins: ClassVar[bool] = False
    """Each block has a minimum; codes count up from it."""
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
        codes = quantized.codes.astype(np.float32)
        if self.zero_code:
            codes -= np.float32(self.zero_code)
        if self.per_row:
            return (codes * quantized.scales[:, None])[:, : quantized.k]
        values = codes.reshape(quantized.rows, -1, self.block)
        values *= quantized.scales.astype(np.float32)[..., None]
        if quantized.mins is not None:
            values += quantized.mins.astype(np.float32)[..., None]
        return np.ascontiguousarray(values.reshape(quantized.rows, -1)[:, : quantized.k])

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
        scales = np.zeros((rows, self.blocks(k)), np.float16)
        return Quantized(self, codes, scales, scales if self.has_mins else None, k)

    def packed(self, codes: Array, *, unsigned: bool = False) -> Array:
        """Codes [N, C] as bytes u8 [N, C * bits / 8]; two 4-bit codes share a byte, the first in
        the low half, as in ONNX's int4 (onnx.proto) and in TensorRT's.

        Codes around zero become two's complement, or unsigned with half their range added. Codes
        that count up from a minimum are unsigned by nature.
        """
        codes = codes.view(np.uint8)
        half = 1 << (self.bits - 1)
        shift = 0 if self.has_mins else (half if unsigned else 0) - self.zero_code
        if shift:
            codes = codes + np.uint8(shift % 256)
        if self.bits == 8:
            return codes
        if shift:
            codes &= np.uint8(15)
        return codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)

    def blocks(self, k: int) -> int:
        """Blocks of a row of `k` columns."""
        return -(-k // self.block)

    def padded(self, k: int) -> int:
        """Columns of `Quantized.codes`: `k` rounded up to whole blocks."""
        return self.blocks(k) * self.block


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
