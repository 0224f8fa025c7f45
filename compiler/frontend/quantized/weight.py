"""What a quantized weight is: a tensor that the checkpoint holds in parts (codes, scales, …).

A method makes one `StoredWeight` of each group of parts. The model sees a `CheckpointTensor` of the
weight's own name and shape, whose `stored` says what its blocks are; the parts stay hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ....weights.formats.number_format import Quantized

Array = np.ndarray
Shape = tuple[int, ...]
Rows = Callable[[Array], Array]
"""Rows (any order) of a matrix → what belongs to them, one row each."""


class StoredWeight(Protocol):
    """A weight [..., K], taken as a matrix; nothing is read before rows are asked for."""

    @property
    def shape(self) -> Shape: ...
    @property
    def stored(self) -> str:
        """A kind of block that a number format may hold (`NumberFormat.holds`), or any other."""
        ...

    def values(self, rows: Array, /) -> Array:
        """The exact values of `rows` as float32 [len(rows), K]."""
        ...

    def blocks(self, rows: Array, /) -> Quantized:
        """The codes and scales of `rows` as they are; only asked for where a format holds them."""
        ...


@dataclass(frozen=True)
class Floats:
    """A weight in a float type of few bits, with scales as no number format of ours has them."""

    shape: Shape
    stored: str
    values: Rows

    def blocks(self, rows: Array) -> Quantized:
        """Never called: no format holds these."""
        raise TypeError(f"{self.stored} has no blocks")


@dataclass
class Taken:
    """What a method makes of a checkpoint's tensors.

    `weights` by their names in the model; `parts`: the tensors that they are made of; `dropped`:
    tensors that mean nothing here, and `notes` that say why; `transposed`: weights whose last two
    dimensions the model has the other way round.
    """

    weights: dict[str, StoredWeight] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    transposed: set[str] = field(default_factory=set)
