"""Suites of tiny programs for a fake GPU, whose kernels are the ops' references.

What is built is real but for the cubins: each launch has a kernel of its own, which stands for its
node. `FakeSide` is the machine: its limits are given numbers, its device a `FakeGpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fake_gpu import Bind, FakeGpu
from llmc.artifact.manifest import Limits
from llmc.benchmarks.gpu_bench.building import Lowered, lower, traced_shape
from llmc.benchmarks.gpu_bench.shapes import Case, Shape
from llmc.benchmarks.gpu_bench.suite import Blobs, BuiltProgram, WeightRecipe
from llmc.benchmarks.gpu_bench.torch_side import fill_tensor
from llmc.ir.ops import CACHE_BLOCK
from reference_launches import ReferenceLaunches, reference_plan

SHAPE = Shape("1b", 64, 96, 2, 4, 2, 16, 160, True, 1e4)
"""Under the name of a shape that has goals."""
CONTEXT = 128
CASES = {
    case.name: case
    for case in (
        Case("decode-1", 1, 1, 70),
        Case("decode-64", 3, 1, 70),
        Case("verify-4", 1, 4, 70),
        Case("prefill-4096", 1, 66, 66),
    )
}
LIMITS = Limits(
    max_tokens=CONTEXT,
    max_sequences=4,
    max_context=CONTEXT,
    max_logits_rows=16,
    block_size=CACHE_BLOCK,
)


def lowered_shape(scheme: str) -> Lowered:
    """The shape, without weights."""
    return lower(traced_shape(SHAPE, CONTEXT), SHAPE.name, scheme, limits=LIMITS)


def by_references(program: Lowered, blobs: Blobs) -> tuple[BuiltProgram, Callable[[], Bind]]:
    """The program with kernels that stand for launches, and what makes what they do."""
    plan, entry = reference_plan(program.compiled.plans[program.level].plan)
    generated = program.compiled.generated
    return program.built(plan, entry, blobs), lambda: ReferenceLaunches(generated, plan).bind


class TimedFake(FakeGpu):
    """A microsecond for each launch."""

    def begin_marks(self) -> None:
        self._before = self.done.calls["launch"]

    def end_marks(self) -> list[float]:
        self.synchronize()
        return [1e-6] * (self.done.calls["launch"] - self._before)


class FakeSide:
    """The machine. `bind`: makes what kernels do, anew for each device."""

    def __init__(self, bind: Callable[[], Bind]) -> None:
        self._bind = bind
        self.devices: list[TimedFake] = []

    def facts(self) -> dict[str, Any]:
        return {"name": "fake", "driver": "1.0"}

    def clocks(self) -> dict[str, Any]:
        return {"clocks.sm": "1000 MHz"}

    def device(self) -> TimedFake:
        self.devices.append(TimedFake(self._bind(), seed=1))
        return self.devices[-1]

    def fill(self, address: int, nbytes: int, weights: Sequence[WeightRecipe]) -> None:
        memory = self.devices[-1].bytes_at(address, nbytes)
        fill_tensor(torch.from_numpy(memory), weights)

    def copy_bandwidth(self) -> float:
        return 2e9

    def matmul_rate(self) -> float:
        return 1e12
