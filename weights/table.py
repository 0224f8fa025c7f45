"""Where each weight lies in a weights entry's data section.

Offsets are compiled into programs, so they are decided before any weight is read: the packed
size of a tensor follows from its format and shape alone. Programs and weights are then made side
by side. Targets with the same layout share one table, and so what they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from ..ir.graph import Value
from ..ir.types import DType
from .layout import Layout, aligned, section_offsets, total_bytes
from .recipes import Pack, Recipe, permute


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """Bytes [offset, offset + nbytes) hold `recipe`: packed if it is a `Pack`, else row-major.

    `dtype` is the element type or number format; `shape` the logical shape; `sections` the offset
    and the bytes of each section of the layout.
    """

    name: str
    recipe: Recipe
    offset: int
    nbytes: int
    dtype: DType
    shape: tuple[int, ...]
    sections: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class WeightTable:
    """Tensors in the order in which programs first read them; equal recipes once."""

    layout: Layout
    tensors: list[WeightTensor] = field(default_factory=list)
    _by_recipe: dict[Recipe, WeightTensor] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    @property
    def nbytes(self) -> int:
        """Bytes up to the end of the last tensor, rounded up to the alignment."""
        return aligned(self.tensors[-1].offset + self.tensors[-1].nbytes) if self.tensors else 0

    def packed(self, value: Value) -> WeightTensor:
        """The tensor of a matrix [N, K] or [E, N, K] in the layout."""
        dtype = value.type.dtype
        sizes = self.layout.sections(dtype, _shape(value))
        return self._add(value, Pack(self.layout.name, dtype, value.recipe), sizes)

    def plain(self, value: Value) -> WeightTensor:
        """The tensor of a constant that is read element by element."""
        return self._add(value, value.recipe, (prod(_shape(value)) * value.type.dtype.itemsize,))

    def transposed(self, value: Value) -> WeightTensor:
        """The tensor of a matrix [N, K], as a row for each column."""
        recipe, type = permute(value.recipe, (1, 0)), value.type
        turned = Value(type.with_shape(reversed(type.shape)), name=value.name, recipe=recipe)
        return self.plain(turned)

    def _add(self, value: Value, recipe: Recipe, sizes: tuple[int, ...]) -> WeightTensor:
        known = self._by_recipe.get(recipe)
        if known is None:
            name = self._unique(value.name or f"constant{len(self.tensors)}")
            dtype, start = value.type.dtype, self.nbytes
            offsets = (start + offset for offset in section_offsets(sizes))
            sections = tuple(zip(offsets, sizes, strict=True))
            nbytes = total_bytes(sizes)
            known = WeightTensor(name, recipe, start, nbytes, dtype, _shape(value), sections)
            self.tensors.append(known)
            self._by_recipe[recipe] = known
        return known

    def _unique(self, name: str) -> str:
        candidate, n = name, 1
        while candidate in self._names:
            n += 1
            candidate = f"{name}.{n}"
        self._names.add(candidate)
        return candidate


def _shape(value: Value) -> tuple[int, ...]:
    shape = tuple(d for d in value.type.shape if isinstance(d, int))
    assert len(shape) == value.type.rank, f"constant {value.name} has a symbolic shape"
    return shape
