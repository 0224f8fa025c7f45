"""Small steps as CUDA graphs: one call of the driver instead of one a kernel.

A graph is recorded when a step of its sizes is first met. Sizes are padded to those of buckets, so
that a few graphs serve all decode steps: so many sequences, and as many query tokens for each as
the step has on average (a verification of drafts brings several). Kernels go by `query_start`, so
it doesn't matter how the tokens are spread over the sequences.
"""

from contextlib import suppress

from ...artifact.manifest import Limits
from ...base.errors import LlmcError
from .gpu_device import GpuDevice, Graph
from .triton_launches import Launches, StepSizes

MOST_QUERY = 8
"""Query tokens a sequence from which on kernels run so long that launching them is no matter."""
MOST_GRAPHS = 128
"""Recorded at once: each takes a megabyte or two of the GPU."""


def sequence_buckets(most: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, 32, 48, 64, 96, … and the limit itself."""
    buckets, power = [1, 2, 4, 8], 16
    while power <= most:
        buckets += [power, power * 3 // 2]
        power *= 2
    return [bucket for bucket in buckets if bucket < most] + [most]


class StepGraphs:
    """The graphs of a program's steps, recorded as they are met."""

    def __init__(self, gpu: GpuDevice, launches: Launches, limits: Limits) -> None:
        self._gpu, self._launches, self._limits = gpu, launches, limits
        self._buckets = sequence_buckets(limits.max_sequences)
        self._graphs: dict[StepSizes, Graph] = {}

    def padded(self, sizes: StepSizes) -> StepSizes | None:
        """The sizes of the graph that runs a step of `sizes`; None: it is launched kernel by
        kernel."""
        sequences = next(b for b in self._buckets if b >= sizes.sequences)
        query = -(-sizes.tokens // sequences)
        tokens = sequences * query
        if query > MOST_QUERY or tokens > self._limits.max_tokens:
            return None
        padded = StepSizes(tokens, sequences, min(tokens, self._limits.max_logits_rows))
        if sizes.rows > padded.rows:
            return None
        known = padded in self._graphs or len(self._graphs) < MOST_GRAPHS
        return padded if known else None

    def run(self, sizes: StepSizes) -> None:
        """Runs the graph of `sizes`, which `padded` gave."""
        graph = self._graphs.get(sizes)
        if graph is None:
            graph = self._graphs[sizes] = self._record(sizes)
        self._gpu.replay(graph)

    def _record(self, sizes: StepSizes) -> Graph:
        self._gpu.begin_capture()
        try:
            self._launches.run(self._gpu, sizes)
        except LlmcError:
            with suppress(LlmcError):  # the queue must take calls again
                self._gpu.end_capture()
            raise
        return self._gpu.end_capture()
