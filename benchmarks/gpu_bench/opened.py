"""An executor of a built program, and what a measurement must know of its inside.

All that reaches into `TritonExecutor` is here: where weights lie, to be filled on the device; and
launches by themselves, since a recorded graph has no times of kernels.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from llmc.artifact.launch_plan import LaunchPlan
from llmc.artifact.program import StepInputs
from llmc.runtime.executors.triton import TritonExecutor
from llmc.runtime.executors.triton_launches import StepSizes

from .side import Side, TimedDevice
from .suite import Blobs, BuiltProgram, entry_of


class Opened:
    """A program on the GPU."""

    def __init__(self, built: BuiltProgram, executor: TritonExecutor, device: TimedDevice) -> None:
        self.built, self.executor, self.device = built, executor, device

    @property
    def plan(self) -> LaunchPlan:
        return self.built.variant.options.plan  # type: ignore[union-attr]

    @property
    def weights_at(self) -> int:
        """The address of the weights."""
        return self.executor._spaces.weights

    def launch_times(self, inputs: StepInputs) -> list[tuple[str, str, float]]:
        """Label, kernel and seconds of each launch of a step that is launched kernel by kernel."""
        tokens, sequences = len(inputs.token_ids), len(inputs.context_len)
        sizes = StepSizes(tokens, sequences, len(inputs.logits_rows))
        self.device.attach()
        self.executor._check.check(inputs)
        self.executor._block.send(inputs, sizes, self.executor._tokens)
        self.device.begin_marks()
        try:
            self.executor._launches.run(self.device, sizes)
        finally:
            times = self.device.end_marks()
        return [(*named, t) for named, t in zip(self._launched(sizes), times, strict=True)]

    def _launched(self, sizes: StepSizes) -> list[tuple[str, str]]:
        """Label and kernel of what a step of these sizes launches, in order."""
        form = self.plan.form_for(sizes.tokens)
        known, count = sizes.by_symbol(), self.device.properties.multiprocessors
        return [
            (launch.label, self.plan.kernels[chosen.kernel].label)
            for launch in self.plan.launches
            if (chosen := launch.forms[form]).kernel >= 0
            and all(extent.value(known, count) for extent in chosen.grid)
        ]


@contextmanager
def opened(built: BuiltProgram, blobs: Blobs, side: Side, blocks: int) -> Iterator[Opened]:
    """The program with its weights (those it has, or filled ones) and so many blocks of cache."""
    given = built.expected
    # Pages that nobody wrote: they take no memory, and are read like any others.
    weights = (
        memoryview(blobs[given.weights])
        if given
        else memoryview(mmap.mmap(-1, max(built.weight_bytes, 1), flags=_PRIVATE))
    )
    device = side.device()
    executor = TritonExecutor(
        built.variant,
        entry_of(built, blobs),
        weights[: built.weight_bytes],
        gpu=device,
        cache_blocks=(blocks,) * len(built.variant.cache_groups),
    )
    try:
        made = Opened(built, executor, device)
        if given is None:
            side.fill(made.weights_at, built.weight_bytes, built.weights)
        yield made
    finally:
        executor.close()


_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
