"""Values as rows of contiguous elements, as row kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.types import Dim, numel
from ..views import View, is_whole, packed_tail, rows


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """`count` rows: those of a group lie one behind another, groups are `stride` elements apart."""

    view: View
    count: Dim
    stride: int


def group_of(*views: View) -> int | None:
    """How many rows make a group in all of these views of one shape: 1 if rows are evenly apart
    in each, else those of the dimension before the last; None if that doesn't do either."""
    if all(packed_tail(view, 1) and rows(view) is not None for view in views):
        return 1
    group = views[0].shape[-2] if views[0].rank > 2 else 0
    if isinstance(group, int) and all(
        packed_tail(view, 2) and rows(view, 2) is not None for view in views
    ):
        return group
    return None


def grouped(view: View, group: int) -> GroupedRows:
    """A view for which `group_of` said `group`."""
    joined = rows(view, 1 if group == 1 else 2)
    assert joined is not None
    return GroupedRows(view, numel(view.shape[:-1]), joined[1])


def takes_place_of(result: View, operand: View) -> bool:
    """Whether a kernel that reads each element of `operand` before it writes that of `result` may
    write it to the same place."""
    same = result.strides == operand.strides and result.dtype == operand.dtype
    return operand.storage is not None and is_whole(operand) and same
