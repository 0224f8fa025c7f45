"""Scales of a weight's rows and columns, in the shapes that checkpoints give them.

| shape            | one scale for                             |
|------------------|-------------------------------------------|
| [], [1], [1, 1]  | the whole weight                          |
| [N], [N, 1]      | a row                                     |
| [R, G]           | a block of rows and columns, or a group   |

Weights with experts before that, [E, N, K], have scales with E before that, or [E].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ....base.errors import LlmcError
from ....weights.formats.elements import FLOAT8
from ....weights.recipes import CheckpointTensor
from .parts import FLOATS, Parts
from .weight import Array, Rows, Shape

SCALES = (*FLOATS, "e8m0", "u8", "e4m3")
"""What scales of blocks may be stored as; bytes are powers of two, as `e8m0`."""


@dataclass(frozen=True)
class Scales:
    """`rows` gives float32 [n, G]; `group` columns share one, K of them where G is 1."""

    rows: Rows
    group: int

    def columns(self, rows: Array, k: int) -> Array:
        """The scale of each of `k` columns, [n, K] or [n, 1]."""
        scales = self.rows(rows)
        return scales if scales.shape[1] == 1 else scales[:, np.arange(k) // self.group]


def find_scales(
    name: str, parts: Parts, shape: Shape, block: tuple[int, int] | None = None
) -> Scales:
    """The scales in tensor `name` of a weight of `shape`, in blocks of `block` rows and columns.

    Without `block`, or where the tensor has another number of them, blocks divide the weight.

    Raises:
        LlmcError: E0406 it is missing or fits no weight of this shape, E0407 it holds no scales.
    """
    tensor = parts.find(name, SCALES)
    *lead, n, k = shape
    if prod(tensor.of) == 1:
        return Scales(lambda rows: np.broadcast_to(_read(parts, tensor, 0), (len(rows), 1)), k)
    r, g = _grid(tensor.of, (*lead, n))
    height, width = _block(n, r, block and block[0]), _block(k, g, block and block[1])
    if not r or not height or not width:
        raise LlmcError("LLMC-E0406", f"{name} is {list(tensor.of)} for a weight {list(shape)}")
    flat = CheckpointTensor(tensor.name, tensor.stored, (prod(lead) * r, g))
    is_table = len(lead) > 0 and tensor.of == (*lead, n)

    def scales(rows: Array) -> Array:
        at = rows // n * r + rows % n // height
        if is_table:  # [E, N], whose rows are experts
            return _power(tensor, parts.whole(tensor)).reshape(-1, g)[at]
        return _power(tensor, parts.rows(flat, at))

    return Scales(scales, width)


def _grid(of: Shape, lead: Shape) -> tuple[int, int]:
    """Rows and columns of scales a matrix, 0 if `of` isn't a shape of scales."""
    if of == lead:
        return lead[-1], 1
    if of == lead[:-1]:
        return 1, 1
    return (of[-2], of[-1]) if len(of) == len(lead) + 1 and of[:-2] == lead[:-1] else (0, 0)


def _block(size: int, count: int, wanted: int | None) -> int:
    """Rows or columns of a block if `count` blocks cover `size`; 0 if they can't."""
    if wanted and -(-size // wanted) == count:
        return wanted
    return size // count if count and size % count == 0 else 0


def _read(parts: Parts, tensor: CheckpointTensor, at: int) -> Array:
    return _power(tensor, parts.whole(tensor)).reshape(-1)[at]


def _power(tensor: CheckpointTensor, values: Array) -> Array:
    return FLOAT8["e8m0"][values] if tensor.stored == "u8" else values
