"""What a launch passes to its kernel, while buffers have no addresses yet.

An `Operand` is an argument of the plan with its Triton type. One that points into a buffer of the
arena counts its offset from the buffer's start, until the memory plan says where that lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...artifact.launch_plan import ONE, Argument, Extent
from ...ir.types import Dim, DType
from .forms import Form
from .machines import Machine

POINTER = {
    DType.F32: "*fp32", DType.BF16: "*bf16", DType.F16: "*fp16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*i1",
}  # fmt: skip
"""Triton's name for a pointer to elements of a type. Booleans take a byte."""


@dataclass(frozen=True, slots=True)
class Operand:
    """`type` as Triton names it; `buffer`: of the arena, or "" if the argument is final."""

    type: str
    argument: Argument
    buffer: str = ""


@dataclass(frozen=True)
class Choice:
    """The kernel of a launch in one form, and on how many blocks it runs.

    `grid`: up to three extents. `constants`: of the kernel, by name. `cooperative`: all blocks
    must be resident at once.
    """

    grid: tuple[Extent, ...]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    cooperative: bool = False

    def full_grid(self) -> tuple[Extent, Extent, Extent]:
        """Three extents."""
        x, y, z = (*self.grid, ONE, ONE, ONE)[:3]
        return x, y, z


Choose = Callable[[Machine, Form], Choice | None]
"""What a launch does on a machine, in a form; None: it isn't launched there."""


@dataclass(frozen=True)
class PlannedLaunch:
    """One launch. `function`: `module.name` in `kernels/`, or a name in `source`."""

    label: str
    function: str
    operands: Mapping[str, Operand]
    choose: Choose = field(compare=False)
    source: str = ""


def extent(dim: Dim, divisor: int = 1, *, add: int = 0, per_multiprocessor: int = 0) -> Extent:
    """`ceil((dim + add) / divisor)`, at most so many times the number of multiprocessors."""
    if isinstance(dim, int):
        return Extent("", dim, add, divisor, per_multiprocessor)
    assert dim.name in ("T", "S", "R"), f"{dim} is no size of a step"
    return Extent(dim.name, dim.scale, add, divisor, per_multiprocessor)  # type: ignore[arg-type]
