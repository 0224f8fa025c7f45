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
from ...weights.quantization import BLOCK
from ...weights.table import WeightTensor

_FOUR_BITS = (DType.I4S, DType.I4A)
_BLOCKED = (DType.I8B, *_FOUR_BITS)


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
    dtype, offsets = DType(tensor.format), [offset for offset, _ in tensor.sections]
    if dtype in TORCH_DTYPE:
        return (Part(offsets[0], dtype, tensor.shape),)
    *lead, k = tensor.shape
    if dtype == DType.I8C:
        kinds = [(DType.I8, (*lead, k)), (DType.F32, tuple(lead))]
    else:
        blocks = -(-k // BLOCK)
        codes = (DType.U8, (*lead, blocks * BLOCK // 2))
        if dtype == DType.I8B:
            codes = (DType.I8, (*lead, blocks * BLOCK))
        kinds = [codes, *[(DType.F32, (*lead, blocks))] * (len(offsets) - 1)]
    return tuple(Part(at, *kind) for at, kind in zip(offsets, kinds, strict=True))


def value_of(type: TensorType, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """What parts of a constant of this type mean: f32 where they are codes, else as they are.

    Only the last dimension of `type` counts, so rows of the parts give rows of the constant.
    """
    dtype = type.dtype
    if dtype in TORCH_DTYPE:
        return parts[0]
    codes, scales, *minima = parts
    if dtype == DType.I8C:
        return codes.float() * scales.unsqueeze(-1)
    if dtype in _FOUR_BITS:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
    if dtype == DType.I4S:  # two's complement of four bits
        codes = (codes ^ 8).to(torch.int8) - 8
    value = codes.float().unflatten(-1, (-1, BLOCK)) * scales.unsqueeze(-1)
    if minima:
        value = value + minima[0].unsqueeze(-1)
    return value.flatten(-2)[..., : type.shape[-1]]
