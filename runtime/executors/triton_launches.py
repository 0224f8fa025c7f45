"""The launches of a plan, ready to go: kernels loaded, arguments packed as far as they are known.

In: a plan and where its spaces lie. Out: for each form a list of launches; per step only sizes and
grids that depend on it are computed, each distinct expression once.

A kernel's parameters are packed by their own types with natural alignment, and two pointers to
scratch memory stand behind them, as Triton's kernels expect (0 where a kernel wants none).
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ...artifact.launch_plan import (
    NO_KERNEL,
    Argument,
    Extent,
    Kernel,
    Launch,
    LaunchPlan,
    Number,
    Pointer,
    Size,
    parameter_layout,
)
from ...base.errors import LlmcError
from . import gpu_device
from .gpu_device import GpuDevice, LaunchShape

_SCRATCH_ALIGNMENT = 256


class Spaces(NamedTuple):
    """Where the memory of a program begins. `cache`: of each group."""

    arena: int
    weights: int
    step: int
    kept: int
    cache: tuple[int, ...]

    def address(self, pointer: Pointer) -> int:
        """Of the first byte that a pointer means."""
        base = (
            self.cache[pointer.group] if pointer.space == "cache" else getattr(self, pointer.space)
        )
        return base + pointer.offset


class StepSizes(NamedTuple):
    """What the sizes of arguments and grids follow from."""

    tokens: int
    sequences: int
    rows: int

    def by_symbol(self) -> dict[str, int]:
        """As expressions name them."""
        return {"T": self.tokens, "S": self.sequences, "R": self.rows}


class PreparedLaunch(NamedTuple):
    """Launch `number` of the plan in one form. `sizes`: which values are the step's, and the number
    of each one's expression; `constant`: the packed parameters if there are none; `grid`: numbers
    of expressions.
    """

    number: int
    kernel: gpu_device.Kernel
    shape: LaunchShape
    layout: struct.Struct
    values: list[int | float]
    sizes: list[tuple[int, int]]
    constant: bytes | None
    grid: tuple[int, int, int]


class Launches:
    """Launches of one list of a plan. Errors: E0509, a kernel takes other parameters."""

    def __init__(
        self, plan: LaunchPlan, launches: Sequence[Launch], most: StepSizes, multiprocessors: int
    ) -> None:
        self._plan, self._launches, self._most = plan, launches, most
        self._multiprocessors = multiprocessors
        self._numbers: dict[Extent, int] = {}
        self._forms: list[list[PreparedLaunch]] = []
        self.scratch_bytes = sum(self._scratch_of(launch) for launch in launches)
        for launch in launches:
            self._check(launch)

    def _check(self, launch: Launch) -> None:
        size = parameter_layout(launch.arguments).size
        for form in launch.forms:
            if form.kernel == NO_KERNEL:
                continue
            kernel = self._plan.kernels[form.kernel]
            if kernel.parameter_bytes not in (0, size):
                raise LlmcError(
                    "LLMC-E0509",
                    f"kernel {kernel.label} takes {kernel.parameter_bytes} bytes of parameters, "
                    f"the plan has {size}",
                )

    def _scratch_of(self, launch: Launch) -> int:
        """Bytes that a launch may want at most, in any form. Launches may overlap: no two of them
        have theirs together."""
        needed = 0
        for number, form in enumerate(launch.forms):
            if form.kernel != NO_KERNEL and self._plan.kernels[form.kernel].scratch:
                sizes = self._most_in(number).by_symbol()
                blocks = 1
                for extent in form.grid:
                    blocks *= extent.value(sizes, self._multiprocessors)
                needed = max(needed, blocks * self._plan.kernels[form.kernel].scratch)
        return -(-needed // _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT

    def _most_in(self, form: int) -> StepSizes:
        most, last = self._most, form == len(self._plan.forms) - 1
        tokens = most.tokens if last else min(most.tokens, self._plan.forms[form])
        return StepSizes(tokens, most.sequences, most.rows)

    def prepare(
        self, kernels: Mapping[int, gpu_device.Kernel], spaces: Spaces, scratch: int
    ) -> None:
        """Packs what is known. `kernels`: by their numbers in the plan; `scratch`: the address of
        `scratch_bytes` bytes."""
        self._forms = [[] for _ in self._plan.forms]
        for place, launch in enumerate(self._launches):
            needed = self._scratch_of(launch)
            for form, chosen in zip(self._forms, launch.forms, strict=True):
                if chosen.kernel != NO_KERNEL:
                    kernel = self._plan.kernels[chosen.kernel]
                    grid = [self._number(extent) for extent in chosen.grid]
                    form.append(
                        _prepared(
                            place,
                            kernels[chosen.kernel],
                            _shape(kernel),
                            self._values(launch.arguments, spaces, scratch if needed else 0),
                            launch.arguments,
                            [self._number(size.extent) for size in _sizes(launch.arguments)],
                            (grid[0], grid[1], grid[2]),
                        )
                    )
            scratch += needed

    def _number(self, extent: Extent) -> int:
        return self._numbers.setdefault(extent, len(self._numbers))

    def _values(
        self, arguments: Sequence[Argument], spaces: Spaces, scratch: int
    ) -> list[int | float]:
        values: list[int | float] = []
        for argument in arguments:
            match argument:
                case Pointer():
                    values.append(spaces.address(argument))
                case Number():
                    values.append(argument.value)
                case Size():
                    values.append(0)
        return [*values, scratch, 0]

    def run(
        self, gpu: GpuDevice, sizes: StepSizes, before: Callable[[int], None] | None = None
    ) -> None:
        """Launches all, in the form for a step of these sizes. What has no blocks is left out.
        `before` is called before each launch, with its number in the plan."""
        known, count = sizes.by_symbol(), self._multiprocessors
        numbers = [extent.value(known, count) for extent in self._numbers]
        for launch in self._forms[self._plan.form_for(sizes.tokens)]:
            x, y, z = launch.grid
            grid = (numbers[x], numbers[y], numbers[z])
            if 0 in grid:
                continue
            packed = launch.constant
            if packed is None:
                for place, number in launch.sizes:
                    launch.values[place] = numbers[number]
                packed = launch.layout.pack(*launch.values)
            if before is not None:
                before(launch.number)
            gpu.launch(launch.kernel, grid, launch.shape, packed)


def _prepared(
    number: int,
    kernel: gpu_device.Kernel,
    shape: LaunchShape,
    values: list[int | float],
    arguments: Sequence[Argument],
    numbers: list[int],
    grid: tuple[int, int, int],
) -> PreparedLaunch:
    layout = parameter_layout(arguments)
    places = [place for place, argument in enumerate(arguments) if isinstance(argument, Size)]
    sizes = list(zip(places, numbers, strict=True))
    constant = None if sizes else layout.pack(*values)
    return PreparedLaunch(number, kernel, shape, layout, values, sizes, constant, grid)


def _shape(kernel: Kernel) -> LaunchShape:
    return LaunchShape(kernel.threads, kernel.shared, kernel.overlaps, kernel.cooperative)


def _sizes(arguments: Iterable[Argument]) -> list[Size]:
    return [argument for argument in arguments if isinstance(argument, Size)]
