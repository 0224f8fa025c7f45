"""Where each weight lies behind the program's one base pointer.

Offsets are compiled into the program, so they are decided before any weight is read: the
packed size of a tensor follows from its format and shape alone. Library and weights
are then made side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from ...ir.graph import Value
from ...ir.plan import ALIGNMENT
from ...ir.quantization import WeightFormat
from ...ir.recipes import Pack, Recipe
from .packing import packed_bytes

LAYOUT = "panel16"
"""The name of `packing.py`'s layout in recipes."""


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """Bytes [offset, offset + nbytes) hold `recipe`: packed if it is a `Pack`, else row-major.

    `format` is a weight format or an element type; `shape` the logical shape.
    """

    name: str
    recipe: Recipe
    offset: int
    nbytes: int
    format: str
    shape: tuple[int, ...]


@dataclass(slots=True)
class WeightTable:
    """Tensors in the order in which the program first reads them; equal recipes once."""

    tensors: list[WeightTensor] = field(default_factory=list)
    _by_recipe: dict[Recipe, WeightTensor] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    @property
    def nbytes(self) -> int:
        """Bytes up to the end of the last tensor, rounded up to the alignment."""
        return _aligned(self.tensors[-1].offset + self.tensors[-1].nbytes) if self.tensors else 0

    def packed(self, value: Value) -> WeightTensor:
        """The tensor of a matrix [N, K] or [E, N, K] for the linear and embedding kernels."""
        format = WeightFormat(value.type.dtype.value)
        *experts, n, k = _shape(value)
        nbytes = prod(experts) * packed_bytes(format, n, k)
        return self._add(value, Pack(LAYOUT, format, value.recipe), nbytes)

    def plain(self, value: Value) -> WeightTensor:
        """The tensor of a constant that is read element by element."""
        return self._add(value, value.recipe, prod(_shape(value)) * value.type.dtype.itemsize)

    def _add(self, value: Value, recipe: Recipe, nbytes: int) -> WeightTensor:
        known = self._by_recipe.get(recipe)
        if known is None:
            name = self._unique(value.name or f"constant{len(self.tensors)}")
            format = value.type.dtype.value
            known = WeightTensor(name, recipe, self.nbytes, nbytes, format, _shape(value))
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


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _shape(value: Value) -> tuple[int, ...]:
    shape = tuple(d for d in value.type.shape if isinstance(d, int))
    assert len(shape) == value.type.rank, f"constant {value.name} has a symbolic shape"
    return shape
