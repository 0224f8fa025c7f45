"""Literal scalars: rank-0 constants that print as their value."""

from __future__ import annotations

from .graph import Value
from .recipe import Scalar
from .types import DType


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
