"""What a kernel moves through memory, as the table that a library carries for its profile.

In: the views and weights that an emitted step reads and writes. Out: a name and byte counts, each
for one unit of something that only a step knows: a token, a row of logits, a position of context.
Values of the units' own kind are sizes at run time, so the table needs no limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ir.types import Dim, numel
from ..views import View

_KERNEL = re.compile(r"\b(?!made\b)(\w+)\((?:made\.team\(\)|team)[,)]")
"""A call with the team as its first argument (`function.call`)."""
LOOP = "loop"
"""What steps without a kernel of their own are called: loops that were written out for them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """`nbytes` for each of a step's `unit`: "" (once), T, S, S1, R as in graphs, C positions that
    a sequence sees, summed over sequences.

    `most`: of units C the most that one sequence has (its window), otherwise the most bytes that
    there can be; 0: no such limit.
    """

    nbytes: int
    unit: str = ""
    most: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A step as a profile shows it: the C++ function, the module it comes from, what it moves."""

    name: str
    scope: str
    traffic: tuple[Traffic, ...]


def kernel_name(lines: Sequence[str]) -> str:
    """The kernel that the lines of a step call."""
    return next((m.group(1) for line in lines if (m := _KERNEL.search(line))), LOOP)


def traffic_of(views: Iterable[View]) -> list[Traffic]:
    """What reading or writing these views once moves."""
    return [_of(view) for view in views if view.storage is not None]


def traffic_of_rows(view: View, nbytes: int, most: int = 0) -> Traffic:
    """`nbytes` of a packed weight for each row of `view`, together at most `most`."""
    size, unit = _split(view.shape[0])
    return Traffic(size * nbytes, unit, most)


def _of(view: View) -> Traffic:
    assert view.storage is not None
    size, unit = _split(numel(view.shape))
    stored, stored_unit = _split(view.storage.numel)
    if stored_unit == unit:  # a broadcast view reads its elements several times, memory once
        size = min(size, stored)
    return Traffic(size * view.dtype.itemsize, unit)


def _split(size: Dim) -> tuple[int, str]:
    return (size, "") if isinstance(size, int) else (size.scale, size.name)


def kernel_table(kernels: Sequence[Kernel]) -> str:
    """A C string literal: JSON, a list of [name, scope, [[bytes, unit, most], …]]."""
    rows = [[k.name, k.scope, _joined(k.traffic)] for k in kernels]
    return json.dumps(json.dumps(rows, separators=(",", ":")))


def _joined(traffic: Iterable[Traffic]) -> list[list[int | str]]:
    """Terms of one unit without a limit as one."""
    sums: dict[tuple[str, int], int] = {}
    for term in traffic:
        key = (term.unit, term.most)
        sums[key] = sums.get(key, 0) + term.nbytes
    return [[nbytes, unit, most] for (unit, most), nbytes in sums.items() if nbytes]
