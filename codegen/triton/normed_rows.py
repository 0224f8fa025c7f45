"""What a norm reads and stores, for the linear layers that compute it in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..views import View


@dataclass(frozen=True, slots=True)
class NormedRows:
    """Views of rows, with the elements from one to the next; `scale`: the norm's weight.

    `total`: where x + added is stored.
    """

    x: View
    x_stride: int
    scale: View | None
    eps: float
    added: View | None = None
    added_stride: int = 0
    total: View | None = None
    total_stride: int = 0

    @property
    def summed(self) -> NormedRows:
        """The same once the sum is stored."""
        if self.total is None:
            return self
        return replace(
            self, x=self.total, x_stride=self.total_stride,
            added=None, added_stride=0, total=None, total_stride=0,
        )  # fmt: skip

    @property
    def element_bytes(self) -> int:
        """Bytes that are read for an element."""
        views = (self.x, self.added, self.scale)
        return sum(view.dtype.itemsize for view in views if view is not None)

    @property
    def constants(self) -> Mapping[str, Any]:
        """Of the kernels in `kernels/normed_linear.py`; what there isn't is None."""
        named = {"added_ptr": self.added, "scale_ptr": self.scale, "sum_ptr": self.total}
        absent = {name: None for name, view in named.items() if view is None}
        return absent | {
            "X_STRIDE": self.x_stride, "ADDED_STRIDE": self.added_stride,
            "SUM_STRIDE": self.total_stride, "EPS": self.eps,
        }  # fmt: skip
