"""Medians, percentiles and the figures that cases report, with what they must reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated; nan of none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Iterable[float]) -> float:
    """The middle value; nan of none."""
    return percentile(values, 0.5)


def gaps(times: Sequence[float]) -> list[float]:
    """What lies between each moment and the next one."""
    return [later - earlier for earlier, later in pairwise(times)]


@dataclass(frozen=True)
class Figure:
    """One number of a case. `limit`: what it must not exceed ("at most") or fall below."""

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    limit_is: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether the limit holds; None without one. What could not be measured never holds."""
        if self.limit is None:
            return None
        if self.limit_is == "at most":
            return self.value <= self.limit
        return self.value >= self.limit


@dataclass(frozen=True)
class CaseResult:
    """What one case found. `failures`: anything that is wrong whatever the numbers say."""

    case: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No failure and no limit missed."""
        return not self.failures and all(figure.met is not False for figure in self.figures)
