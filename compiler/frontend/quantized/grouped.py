"""Integer codes with a scale for each group of columns: what most methods make of a weight.

    value = scale * (code - zero)        or        value = scale * code + minimum

A group of 32, 64, 128, … columns is a number of our blocks of 32 with equal scales, so codes and
scales go into our formats as they are. What that costs, if anything: scales become float16 (which
float16 scales are, and bfloat16 ones with few exceptions), and a minimum `-zero * scale` is rounded
to float16, by at most 2^-11 of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ....ir.tiles import BLOCK
from ....ir.types import DType
from ....weights.formats.number_format import Quantized
from ....weights.formats.registry import format_of
from .weight import Rows, Shape

Array = np.ndarray
_SCANNED = 1 << 20  # scales that are looked at in one go
_F16_MAX = 65504.0
_FORMATS = {
    "int4": DType.I4S, "uint4": DType.I4A, "affine4": DType.I4A, "int5": DType.I5S,
    "uint5": DType.I5A, "affine5": DType.I5A, "int8": DType.I8B, "int8_channel": DType.I8C,
}  # fmt: skip


@dataclass(frozen=True)
class GroupedIntegers:
    """A weight of unsigned codes below `2**bits`.

    `codes` gives u8 [n, K]; `scales` and `mins` float32 [n, G]; `zeros` one number for all, or
    integers [n, G]; `group` columns share a scale, K of them where there is one a row. `groups`:
    the group of each column where columns are out of order (GPTQ's act-order), else None.
    """

    shape: Shape
    bits: int
    group: int
    codes: Rows
    scales: Rows
    zeros: int | Rows = 0
    mins: Rows | None = None
    groups: Array | None = None
    stored: str = field(default="", init=False)

    def __post_init__(self) -> None:
        zeros = self._one_zero()
        if zeros is not None:
            object.__setattr__(self, "zeros", zeros)
        object.__setattr__(self, "stored", self._kind())

    def values(self, rows: Array) -> Array:
        """scale * (code - zero) or scale * code + minimum, in float32."""
        k = self.shape[-1]
        group_of = np.arange(k) // self.group if self.groups is None else self.groups
        values = self.codes(rows).astype(np.float32)
        if isinstance(self.zeros, int):
            values -= np.float32(self.zeros)
        else:
            values -= self.zeros(rows).astype(np.float32)[:, group_of]
        values *= self.scales(rows)[:, group_of]
        if self.mins is not None:
            values += self.mins(rows)[:, group_of]
        return values

    def blocks(self, rows: Array) -> Quantized:
        """Codes and scales in the format that has the same values."""
        format = format_of(_FORMATS[self.stored])
        k = self.shape[-1]
        codes, scales = self.codes(rows), self.scales(rows)
        if format.per_row:
            assert isinstance(self.zeros, int)
            signed = (codes.astype(np.int16) - self.zeros).astype(np.int8)
            return Quantized(format, _padded(signed, format.padded(k), 0), scales[:, 0], None, k)
        halves = scales.astype(np.float16)
        mins = None
        if format.has_mins:
            mins = self._minima(rows, halves)
        elif isinstance(self.zeros, int):
            codes = codes.astype(np.int16) - (self.zeros - format.zero_code)
        codes = _padded(codes.astype(format.code_type), format.padded(k), format.zero_code)
        mins = None if mins is None else self._by_block(mins)
        return Quantized(format, codes, self._by_block(halves), mins, k)

    def _minima(self, rows: Array, scales: Array) -> Array:
        if self.mins is not None:
            return self.mins(rows).astype(np.float16)
        zeros = self.zeros if isinstance(self.zeros, int) else self.zeros(rows)
        return (scales.astype(np.float32) * -np.asarray(zeros, np.float32)).astype(np.float16)

    def _by_block(self, by_group: Array) -> Array:
        """[n, G] as [n, blocks of K]."""
        blocks = -(-self.shape[-1] // BLOCK)
        group_of = np.arange(blocks) * BLOCK // self.group
        return by_group[:, group_of]

    def _kind(self) -> str:
        """What the blocks are, by bits, zeros and groups, if the scales are of float16's range."""
        k, top = self.shape[-1], (1 << self.bits) - 1
        name = "affine" if self.mins is not None else "uint"
        if self.groups is not None:
            return f"int{max(self.bits, 4)}_unordered"
        even = isinstance(self.zeros, int) and self.mins is None
        low = -self.zeros if isinstance(self.zeros, int) else -(1 << self.bits)
        within = even and low >= -128 and top + low <= 127
        if within and self.group >= k and self.bits > 4:
            return "int8_channel"
        if self.group % BLOCK and self.group < k:
            return f"int{max(self.bits, 4)}_small_groups"
        if not self._fits_halves():
            return f"{name}{self.bits}_wide"
        for bits in (4, 5):
            half = 1 << (bits - 1)
            if even and low >= -half and top + low < half:
                return f"int{bits}"
            if self.bits <= bits:
                return f"{name}{bits}"
        return "int8" if within else f"{name}{self.bits}"

    def _one_zero(self) -> int | None:
        """The zero point, if it is the same everywhere."""
        if isinstance(self.zeros, int):
            return None
        found = {int(z) for rows in self._scan() for z in np.unique(self.zeros(rows))[:2]}
        return found.pop() if len(found) == 1 else None

    def _fits_halves(self) -> bool:
        """Whether scales and minima are within float16's range."""
        largest = 0.0
        reach = max(self.zeros, 1) if isinstance(self.zeros, int) else 1 << self.bits
        for rows in self._scan():
            scales = self.scales(rows)
            largest = max(largest, float(np.abs(scales).max(initial=0)) * reach)
            if self.mins is not None:
                largest = max(largest, float(np.abs(self.mins(rows)).max(initial=0)))
        return largest <= _F16_MAX

    def _scan(self) -> Iterator[Array]:
        count, groups = prod(self.shape[:-1]), -(-self.shape[-1] // self.group)
        step = max(32, _SCANNED // groups // 32 * 32)
        for start in range(0, count, step):
            yield np.arange(start, min(count, start + step))


def in_order(weight: GroupedIntegers) -> tuple[GroupedIntegers, Array] | None:
    """The same weight with the columns of each group beside one another, and where each column is.

    None if groups have other sizes than columns that follow one another would have.
    """
    assert weight.groups is not None
    k = weight.shape[-1]
    sizes = np.bincount(weight.groups, minlength=-(-k // weight.group))
    if not np.array_equal(sizes, np.bincount(np.arange(k) // weight.group)):
        return None
    order = np.argsort(weight.groups, kind="stable")
    codes = weight.codes
    ordered = replace(weight, codes=lambda rows: codes(rows).take(order, axis=1), groups=None)
    return ordered, np.argsort(order)


def _padded(codes: Array, columns: int, value: int) -> Array:
    missing = columns - codes.shape[1]
    if missing:
        codes = np.pad(codes, ((0, 0), (0, missing)), constant_values=value)
    return np.ascontiguousarray(codes)
