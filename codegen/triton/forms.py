"""The forms of a program: for how many rows a launch chooses its kernel.

One list of launches serves every step. A kernel multiplies tiles of 8, 16, 32 or 64 rows, so each
launch may name another kernel for steps of at most so many; the last form takes any number. One or
two rows have a form of their own, in which fewer kernels do more.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...artifact.manifest import Limits
from ...ir.types import Dim

NARROW = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Form:
    """Steps of at most `rows` query tokens; `logits_rows`: of which so many want logits."""

    rows: int
    logits_rows: int
    sequences: int
    wide: bool

    def most(self, dim: Dim) -> int:
        """The largest value of a dimension."""
        if isinstance(dim, int):
            return dim
        found = {"T": self.rows, "R": self.logits_rows, "S": self.sequences}[dim.name]
        return found * dim.scale


FEW = (1, 2)
"""So few rows have kernels of their own: linear layers normalize them, and where rows may depend on
their batch, one row is multiplied otherwise than two."""


def forms_of(limits: Limits, batch_invariant: bool = True) -> tuple[Form, ...]:
    """The forms of a program with these limits, by rising number of rows."""
    kinds = (*(FEW[-1:] if batch_invariant else FEW), *NARROW)
    narrow = [rows for rows in kinds if rows < limits.max_tokens]
    return tuple(
        Form(
            rows,
            min(rows, limits.max_logits_rows),
            min(rows, limits.max_sequences),
            wide=rows > NARROW[-1],
        )
        for rows in (*narrow, limits.max_tokens)
    )
