"""What a measurement needs of the machine with the GPU, so that a stand-in can take its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llmc.runtime.executors.gpu_device import GpuDevice

from .suite import WeightRecipe


class TimedDevice(GpuDevice, Protocol):
    """A device that can say how long each kernel takes."""

    def begin_marks(self) -> None:
        """From now on, each launch is followed by a mark, which keeps kernels from overlapping."""
        ...

    def end_marks(self) -> list[float]:
        """Seconds between two marks behind one another: one number for each launch."""
        ...


class Side(Protocol):
    """The GPU, and the limits that everything is measured against.

    Limits are those of the moment, by what others wrote: large copies within the device (bytes read
    and written a second), and products of bf16 matrices (operations a second).
    """

    def facts(self) -> dict[str, Any]:
        """Name, driver, versions."""
        ...

    def clocks(self) -> dict[str, Any]:
        """Clocks, temperature, power, and why clocks are held back: as far as that is known."""
        ...

    def device(self) -> TimedDevice:
        """A device for one executor, which closes it."""
        ...

    def fill(self, address: int, nbytes: int, weights: Sequence[WeightRecipe]) -> None:
        """Put numbers where an executor's weights are; done when it returns."""
        ...

    def copy_bandwidth(self) -> float: ...
    def matmul_rate(self) -> float: ...
