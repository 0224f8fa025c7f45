"""Operands of row kernels: a value as rows of contiguous elements, copied only if it must be."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Value
from ...ir.types import Dim, DType, Sym
from ..views import View, is_whole, packed_tail, rows
from .emit_movement import as_dtype, dense
from .function import Function, size_expression


@dataclass(frozen=True, slots=True)
class Matrix:
    """`count` rows, `stride` elements apart; what a row holds is contiguous."""

    view: View
    count: Dim
    stride: int

    @property
    def pointer(self) -> str:
        return self.view.pointer

    @property
    def rows(self) -> str:
        """C++ expression of the number of rows."""
        return size_expression(self.count)

    @property
    def is_token_rows(self) -> bool:
        """Exactly one row a token (or wanted row): then `team_range` splits it as it does rows."""
        return isinstance(self.count, Sym) and self.count.scale == 1


def matrix(fn: Function, view: View, keep: int = 1) -> Matrix:
    """`view` with its last `keep` dimensions as a row."""
    return try_matrix(view, keep) or _copied(fn, view, keep)


def try_matrix(view: View, keep: int = 1) -> Matrix | None:
    """The same without a copy, or None where strides don't allow it."""
    if view.storage is None or not packed_tail(view, keep):
        return None
    joined = rows(view, keep)
    return None if joined is None else Matrix(view, *joined)


def _copied(fn: Function, view: View, keep: int) -> Matrix:
    if view.storage is None:
        view = as_dtype(fn, view, view.dtype)
    result = try_matrix(dense(fn, view), keep)
    if result is None:
        raise fn.refuse(f"{view.type} has tokens inside a row")
    return result


def dense_matrix(fn: Function, view: View) -> Matrix:
    """`view` as rows without gaps between them."""
    found = try_matrix(view)
    width = view.shape[-1]
    if found is not None and (found.stride == width or found.count == 1):
        return found
    return _copied(fn, as_dtype(fn, view, view.dtype), 1)


def vector(fn: Function, value: Value | None) -> tuple[str, list[View]]:
    """(address, what is read) of an optional contiguous vector: norm weight, bias."""
    if value is None:
        return "nullptr", []
    view = dense(fn, as_dtype(fn, fn.view(value), DType.F32))
    return view.pointer, [view]


def int32(fn: Function, view: View) -> View:
    """`view` as contiguous i32, converted if it is i64."""
    return dense(fn, as_dtype(fn, view, DType.I32))


def takes_place_of(result: View, operand: View) -> bool:
    """A kernel that reads each element of `operand` before it writes that of `result`."""
    same = result.strides == operand.strides and result.dtype == operand.dtype
    return operand.storage is not None and is_whole(operand) and same
