"""The GPU of this machine: the runtime's own device for programs, torch for all else.

Both use the device's primary context, so torch can write to memory that an executor allocated.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from llmc.runtime.executors.cuda_device import CudaDevice, checked, cuda_driver, facts
from llmc.runtime.executors.gpu_device import Grid, Kernel, LaunchShape

from .suite import Filling, WeightRecipe

COPY_BYTES = 1 << 30
MATRIX = 8192
_TORCH = {
    "bytes": torch.uint8,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
}
_QUERIES = (
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw", "pstate"),
    "clocks_throttle_reasons.active",
)


class MarkedDevice(CudaDevice):
    """A device that records an event behind each launch while it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: list[Any] | None = None

    def begin_marks(self) -> None:
        self._marks = []
        self._mark()

    def _mark(self) -> None:
        driver = self._driver
        event = checked(driver.cuEventCreate(0), "the GPU gives no event")
        checked(driver.cuEventRecord(event, self._stream), "an event can't be recorded")
        assert self._marks is not None
        self._marks.append(event)

    def launch(self, kernel: Kernel, grid: Grid, shape: LaunchShape, parameters: bytes) -> None:
        super().launch(kernel, grid, shape, parameters)
        if self._marks is not None:
            self._mark()

    def end_marks(self) -> list[float]:
        self.synchronize()
        marks, self._marks = self._marks or [], None
        times = [
            checked(self._driver.cuEventElapsedTime(a, b), "no time of an event") / 1e3
            for a, b in pairwise(marks)
        ]
        for event in marks:
            self._driver.cuEventDestroy(event)
        return times


class _Memory:
    """Bytes of the device as torch takes them from others."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class TorchSide:
    """The first GPU. Raises RuntimeError where torch sees none."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        torch.cuda.init()
        self._source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
        self._target = torch.empty_like(self._source)
        self._matrices = [
            torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16, device="cuda") for _ in range(3)
        ]

    def facts(self) -> dict[str, Any]:
        found = facts(cuda_driver())
        return {
            "name": found.name,
            "sm": found.sm,
            "multiprocessors": found.multiprocessors,
            "memory_bytes": found.total_memory,
            "driver_cuda": found.driver,
            "driver": _smi("driver_version"),
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
        }

    def clocks(self) -> dict[str, Any]:
        return {query: _smi(query) for query in _QUERIES}

    def device(self) -> MarkedDevice:
        return MarkedDevice()

    def fill(self, address: int, nbytes: int, weights: Sequence[WeightRecipe]) -> None:
        memory = torch.as_tensor(_Memory(address, nbytes), device="cuda")
        fill_tensor(memory, weights)
        torch.cuda.synchronize()

    def copy_bandwidth(self) -> float:
        seconds = _seconds(lambda: self._target.copy_(self._source), 5)
        return 2 * COPY_BYTES / seconds

    def matmul_rate(self) -> float:
        a, b, c = self._matrices
        seconds = _seconds(lambda: torch.mm(a, b, out=c), 5)
        return 2 * MATRIX**3 / seconds


def fill_tensor(memory: torch.Tensor, weights: Sequence[WeightRecipe]) -> None:
    """Fill u8 [nbytes] as recipes say; what no section covers becomes 0."""
    memory.zero_()
    generator = torch.Generator(memory.device)
    for weight in weights:
        generator.manual_seed(weight.seed)
        for section in weight.sections:
            _fill(memory, section, generator)


def _fill(memory: torch.Tensor, section: Filling, generator: torch.Generator) -> None:
    part = memory[section.offset : section.offset + section.nbytes].view(_TORCH[section.kind])
    if section.kind == "bytes":
        part.random_(int(section.low), int(section.high), generator=generator)
    else:
        part.uniform_(section.low, section.high, generator=generator)


def _seconds(call: Callable[[], object], count: int) -> float:
    """Of one call, on the device, after one that doesn't count."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def _smi(query: str) -> str:
    """What nvidia-smi says, or that it can't."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    command = [program, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return "unknown"
    return done.stdout.strip() or "unknown"
