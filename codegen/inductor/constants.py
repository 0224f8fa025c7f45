"""Weights of the "rows" layout as torch tensors, and what they mean.

A weight is one or several *parts* (plain elements; codes, scales, minima), each a piece of the
weights entry. A part's name says where it lies and what it is, so a compiled library, which lists
the names of its constants, needs no table beside it: `at4096_f32_64x128`. The runtime binds
each name to the mapped bytes (`runtime/executors/inductor.py`); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...ir.ops import TORCH_DTYPE
from ...ir.types import DType, TensorType
from ...weights.formats.registry import format_of
from ...weights.row_layout import code_columns, scales_per_row
from ...weights.table import WeightTensor


@dataclass(frozen=True)
class Part:
    """Elements `dtype[shape]`, row-major, at a byte offset of the data section."""

    offset: int
    dtype: DType
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the library calls it."""
        return f"at{self.offset}_{self.dtype}_{'x'.join(map(str, self.shape))}"

    def empty(self) -> torch.Tensor:
        """A stand-in of this shape, whose pages nothing touches."""
        return torch.empty(self.shape, dtype=TORCH_DTYPE[self.dtype])


def parts_of(tensor: WeightTensor) -> tuple[Part, ...]:
    """The parts of a weight; a quantized one has those that `weights/row_layout.py` lists."""
    dtype, offsets = tensor.dtype, [offset for offset, _ in tensor.sections]
    if dtype in TORCH_DTYPE:
        return (Part(offsets[0], dtype, tensor.shape),)
    format = format_of(dtype)
    *lead, k = tensor.shape
    signed_bytes = format.row_bits == 8 and not format.has_mins
    codes = (*lead, code_columns(format, k) * format.row_bits // 8)
    scales = (*lead,) if format.per_row else (*lead, scales_per_row(format, k))
    kinds = [(DType.I8 if signed_bytes else DType.U8, codes)]
    kinds += [(DType.F32, scales)] * (len(offsets) - 1)
    return tuple(Part(at, *kind) for at, kind in zip(offsets, kinds, strict=True))


def value_of(type: TensorType, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """What parts of a constant of this type mean: f32 where they are codes, else as they are.

    Only the last dimension of `type` counts, so rows of the parts give rows of the constant.
    """
    dtype = type.dtype
    if dtype in TORCH_DTYPE:
        return parts[0]
    format = format_of(dtype)
    codes, scales, *minima = parts
    if format.per_row:
        return codes.float() * scales.unsqueeze(-1)
    if format.row_bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
        if not format.has_mins:  # two's complement of four bits
            codes = (codes ^ 8).to(torch.int8) - 8
    value = codes.float().unflatten(-1, (-1, format.block)) * scales.unsqueeze(-1)
    if minima:
        value = value + minima[0].unsqueeze(-1)
    return value.flatten(-2)[..., : type.shape[-1]]
