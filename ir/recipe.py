"""The base of weight recipes, and their leaves: where a constant's values come from.

`CheckpointTensor` names a stored tensor, `Computed` holds a small array that no checkpoint has,
`Constant` is a scalar. `Tree` is the base of the nodes in `weights/recipes.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from .types import DType, TensorType

Shape = tuple[int, ...]

STORED_DTYPES: dict[str, DType] = {
    "f32": DType.F32, "f16": DType.F32, "bf16": DType.F32, "f64": DType.F32,
    "i64": DType.I64, "i32": DType.I32, "i8": DType.I8, "u8": DType.U8, "bool": DType.BOOL,
    "u32": DType.I64, "e4m3": DType.F32, "e5m2": DType.F32, "e8m0": DType.F32,
}  # fmt: skip
"""What a tensor of a stored dtype means; every other stored dtype is a block format (float32)."""


class Recipe:
    """Base of all recipes: `args` are the recipes that this one reads."""

    @property
    def type(self) -> TensorType:
        """Element type and shape (ints only)."""
        raise NotImplementedError(type(self).__name__)

    @property
    def args(self) -> tuple[Recipe, ...]:
        return ()

    @property
    def shape(self) -> Shape:
        return tuple(d for d in self.type.shape if isinstance(d, int))

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True)
class CheckpointTensor(Recipe):
    """A tensor as a checkpoint stores it.

    `stored` is the stored dtype: `f32`, `f16`, `bf16`, …, or a block format such as `q4_1`;
    `of` is the tensor's shape in elements.
    """

    name: str
    stored: str
    of: Shape

    @property
    def type(self) -> TensorType:
        return TensorType(STORED_DTYPES.get(self.stored, DType.F32), self.of)

    @property
    def is_blocked(self) -> bool:
        """Stored as quantized blocks rather than as numbers."""
        return self.stored not in STORED_DTYPES

    def __str__(self) -> str:
        return f"@{self.name}:{self.stored}"


@dataclass(frozen=True)
class Computed(Recipe):
    """A constant that no checkpoint holds (`inv_freq`, …); equal if its content is."""

    name: str = field(compare=False)
    digest: str
    value: np.ndarray = field(compare=False, repr=False)

    @staticmethod
    def of(name: str, value: np.ndarray) -> Computed:
        """Wrap `value`; float64 is rounded to float32, everything else is kept as it is."""
        value = np.array(value, np.float32 if value.dtype == np.float64 else None, order="C")
        value.setflags(write=False)
        head = f"{value.dtype}{value.shape}".encode()
        return Computed(name, hashlib.sha256(head + value.tobytes()).hexdigest()[:16], value)

    @property
    def type(self) -> TensorType:
        return TensorType(_NUMPY_DTYPES[self.value.dtype.name], self.value.shape)

    def __str__(self) -> str:
        return f"computed({self.name}, {self.digest})"


@dataclass(frozen=True)
class Constant(Recipe):
    """A float32 scalar."""

    value: float

    @property
    def type(self) -> TensorType:
        return TensorType(DType.F32, ())

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Scalar(Recipe):
    """A number of element type `of`; prints as `0.5`, `3`, `3:i32`, `true`."""

    value: float | int | bool
    of: DType

    @property
    def type(self) -> TensorType:
        return TensorType(self.of, ())

    def as_leaf(self) -> Recipe:
        """The same as a leaf that recipe evaluation knows."""
        if self.of == DType.F32:
            return Constant(float(self.value))
        return Computed.of(str(self), np.array(self.value, _SCALAR_TYPES[self.of]))

    def __str__(self) -> str:
        if self.of == DType.BOOL:
            return str(bool(self.value)).lower()
        default = DType.F32 if isinstance(self.value, float) else DType.I64
        return repr(self.value) if self.of == default else f"{self.value!r}:{self.of}"


class Tree(Recipe):
    """A node with arguments; prints as `label(arguments, attributes)`.

    Subclasses are dataclasses with `eq=False`: hash and equality are here, because recomputing a
    hash over the tensors of 256 experts at each look-up is slow.
    """

    label = ""

    @cached_property
    def _parts(self) -> tuple[tuple[Recipe, ...], tuple[Any, ...]]:
        recipes: list[Recipe] = []
        attributes: list[Any] = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Recipe):
                recipes.append(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Recipe):
                recipes.extend(value)
            else:
                attributes.append(value)
        return tuple(recipes), tuple(attributes)

    @property
    def args(self) -> tuple[Recipe, ...]:
        return self._parts[0]

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), *self._parts))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(self) is type(other)
            and hash(self) == hash(other)
            and (
                self._parts == other._parts  # type: ignore[attr-defined]
            )
        )

    def __str__(self) -> str:
        recipes, attributes = self._parts
        parts = [*recipes, *(list(a) if isinstance(a, tuple) else a for a in attributes)]
        return f"{self.label}({', '.join(map(str, parts))})"


_NUMPY_DTYPES = {
    "float32": DType.F32, "float16": DType.F16, "int64": DType.I64, "int32": DType.I32,
    "int8": DType.I8, "uint8": DType.U8, "bool": DType.BOOL,
}  # fmt: skip
_SCALAR_TYPES = {
    DType.I64: np.int64,
    DType.I32: np.int32,
    DType.BOOL: np.bool_,
    DType.F32: np.float32,
}
