"""Literal scalars: rank-0 constants that print as their value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Value
from .recipe import Computed, Constant, Recipe
from .types import DType, TensorType


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
        return Computed.of(str(self), np.array(self.value, _NUMPY[self.of]))

    def __str__(self) -> str:
        if self.of == DType.BOOL:
            return str(bool(self.value)).lower()
        default = DType.F32 if isinstance(self.value, float) else DType.I64
        return repr(self.value) if self.of == default else f"{self.value!r}:{self.of}"


_NUMPY = {DType.I64: np.int64, DType.I32: np.int32, DType.BOOL: np.bool_, DType.F32: np.float32}


def scalar(value: float | int | bool, dtype: DType | None = None) -> Value:
    """A constant value holding `value` (f32, i64 or bool unless `dtype` says otherwise)."""
    if dtype is None:
        kinds = {bool: DType.BOOL, int: DType.I64, float: DType.F32}
        dtype = kinds[type(value)]
    kind = float if dtype.is_float else bool if dtype == DType.BOOL else int
    recipe = Scalar(kind(value), dtype)
    return Value(recipe.type, name=str(recipe), recipe=recipe)


def scalar_of(value: Value) -> float | int | bool | None:
    """The number that `value` is, or None if it isn't a literal scalar."""
    return value.recipe.value if isinstance(value.recipe, Scalar) else None
