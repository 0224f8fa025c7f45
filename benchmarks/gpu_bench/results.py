"""What a run found, as JSON: every figure with its goal, checks, profiles, what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .numerics import Check

FORMAT = 1


class Figure(Struct, frozen=True):
    """A number of a model in a scheme. `at_least`, `at_most`: the goal, where there is one."""

    model: str
    scheme: str
    case: str
    quantity: Literal[
        "step",
        "tokens per second",
        "bytes",
        "operations",
        "launches",
        "of copy bandwidth",
        "of matrix peak",
        "against torch.compile",
        "of 64 times one sequence",
        "times one query token",
        "host",
        "peer step",
    ]
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


class KernelTime(Struct, frozen=True):
    """A kernel in a profile: how often, and seconds of all of them."""

    label: str
    kernel: str
    count: int
    seconds: float


class Profile(Struct, frozen=True):
    """One step that was launched kernel by kernel, with a mark between any two: their sum is more
    than the step takes."""

    model: str
    scheme: str
    case: str
    kernels: list[KernelTime]


class Results(Struct):
    """A whole run. `limits`: of copies (bytes a second) and matrices (operations a second), each
    turn's; `left_out`: what wasn't measured, and why."""

    date: str
    device: dict[str, Any] = {}
    built_with: dict[str, str] = {}
    clocks: list[dict[str, Any]] = []
    limits: dict[str, list[float]] = {}
    peers: dict[str, str] = {}
    checks: list[Check] = []
    figures: list[Figure] = []
    profiles: list[Profile] = []
    left_out: dict[str, str] = {}
    seconds: float = 0.0
    format: int = FORMAT

    def value(self, model: str, scheme: str, case: str, quantity: str) -> float | None:
        """A figure, or None."""
        key = (model, scheme, case, quantity)
        found = [f for f in self.figures if (f.model, f.scheme, f.case, f.quantity) == key]
        return found[-1].value if found else None

    @property
    def passed(self) -> bool:
        """Whether all checks passed and every goal that was measured is met."""
        return all(check.passed for check in self.checks) and not self.missed

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.met is False]

    def write(self, path: Path) -> None:
        """As JSON, each met or missed goal said."""
        content = msgspec.to_builtins(self)
        for plain, figure in zip(content["figures"], self.figures, strict=True):
            plain["met"] = figure.met
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def read(path: Path) -> Results:
    """What `write` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Results)
