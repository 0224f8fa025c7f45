"""The executors: which module runs the programs of a target.

A target's module has three functions, as `Executor` says. It is imported when an artifact with such
a variant is opened, and imports the target's own packages inside.
"""

from importlib import import_module
from typing import Protocol, cast

from ...artifact.manifest import Variant
from ...artifact.program import Program
from ...base.errors import LlmcError

_MODULES = {"cpu": "cpu", "inductor": "inductor", "onnx": "onnx", "trt": "tensorrt"}
"""Target → module in `executors/`. Its extra in our own package has the target's name."""


class Executor(Protocol):
    """What a module in `executors/` offers."""

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
    ) -> Program:
        """Starts a program. `weights`: the data section of its weights entry, if it has one.

        Raises:
            LlmcError: E0509, it can't be loaded; E0600 or E0601, memory can't be had.
        """
        ...


def executable(target: str) -> bool:
    """Whether this runtime knows the target at all."""
    return target in _MODULES


def executor(target: str) -> Executor:
    """The executor of a target that is `executable`."""
    module = import_module(f".{_MODULES[target]}", __package__)
    return cast(Executor, module)
