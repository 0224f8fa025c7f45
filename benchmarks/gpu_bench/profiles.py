"""Where the time of a step goes, kernel by kernel."""

from __future__ import annotations

from statistics import median

from .opened import Opened
from .results import KernelTime, Profile
from .shapes import Case
from .steps import case_inputs
from .timing import room_of

REPEATS = 3


def profile_of(program: Opened, case: Case) -> Profile:
    """Medians over a few steps, launches of one kernel in the same place of a layer together."""
    inputs = case_inputs(program.executor, case, room_of(case))
    runs = [program.launch_times(inputs) for _ in range(REPEATS)]
    sums: dict[tuple[str, str], list[float]] = {}
    for launches in zip(*runs, strict=True):
        label, kernel, _ = launches[0]
        key = _without_layer(label), kernel
        sums.setdefault(key, []).append(median(seconds for _, _, seconds in launches))
    kernels = [
        KernelTime(label, kernel, len(times), sum(times)) for (label, kernel), times in sums.items()
    ]
    kernels.sort(key=lambda one: -one.seconds)
    return Profile(program.built.model, program.built.scheme, case.name, kernels)


def _without_layer(label: str) -> str:
    """The op and the last part of where it is from: the same in every layer."""
    mnemonic, _, scope = label.partition(" ")
    return f"{mnemonic} {scope.rpartition('.')[2]}".strip()
