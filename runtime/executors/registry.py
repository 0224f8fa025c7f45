"""The executors: which module runs the programs of a target, and which variant runs here.

A target's module has a number and three functions, as `ExecutorModule` says. It is imported when
an artifact with such a variant is opened, and imports the target's own packages inside.
"""

from importlib import import_module
from typing import Protocol, cast

from ...artifact.manifest import Manifest, Variant
from ...artifact.program import Program
from ...artifact.targets import TARGETS
from ...artifact.variants import select_variant
from ...base.errors import LlmcError


class ExecutorModule(Protocol):
    """What a module in `executors/` offers.

    `CACHE_SHARE`: of what is left beside a program, how much its cache may take by default.
    """

    CACHE_SHARE: float

    def problem(self, variant: Variant) -> LlmcError | None:
        """Why this machine can't run a variant whose features and packages are there."""
        ...

    def available_memory(self) -> int:
        """Bytes that programs can still take where they keep weights and cache."""
        ...

    def open_program(
        self,
        variant: Variant,
        program: bytes | memoryview,
        weights: memoryview | None,
        *,
        threads: int,
        cache_blocks: tuple[int, ...],
        state_slots: int = 0,
    ) -> Program:
        """Starts a program. `weights`: the data section of its weights entry, if it has one.

        `state_slots`: how many sequences' state it keeps, if it keeps any (0 for others).

        Raises:
            LlmcError: E0509, it can't be loaded; E0600 or E0601, memory can't be had.
        """
        ...


def executor_module(target: str) -> ExecutorModule:
    """The module of a target that this runtime knows."""
    return cast(ExecutorModule, import_module(f".{TARGETS[target].folder}", __package__))


def executor_problem(variant: Variant) -> LlmcError | None:
    """What the executor of a variant's target has against it."""
    return executor_module(variant.target).problem(variant)


def runnable_variant(manifest: Manifest, target: str | None = None) -> Variant:
    """The variant that this runtime starts on this machine (of `target`, if it is given).

    Errors: as `select_variant` has them, and what the target's executor says.
    """
    return select_variant(manifest, target, targets=TARGETS, executor_problem=executor_problem)
