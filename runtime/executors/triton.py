"""Runs a variant of target `triton`: the launches of its plan, on a GPU.

In: the variant with its plan, the program entry (cubins one behind the other), the mapped weights.
Nothing is decided here but what a step's sizes choose: a recorded graph or single launches. Steps
are submitted: the GPU works by itself, and a step may take tokens from the one before it that the
host hasn't seen yet.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import ref

from ...artifact.choice import Choice
from ...artifact.manifest import CacheGroup, Limits, Variant
from ...artifact.program import InputCheck, StepInputs, StepOutputs
from ...artifact.targets import TritonProgramOptions, options_of
from ...base.errors import LlmcError
from . import cuda_device
from .gpu_device import GpuDevice
from .triton_graphs import StepGraphs
from .triton_launches import StepSizes
from .triton_loading import gpu_problem, load_program
from .triton_profile import LaunchProfiler
from .triton_sampling import Draw, Sampling
from .triton_steps import StepBlock, TokenSlot, begin_tokens, token_slots

if TYPE_CHECKING:
    from ...base.arrays import Float32Array

AHEAD = 2
"""Steps under way at most; a third one waits until the first is done."""
CACHE_SHARE = 0.9
"""A GPU has little else to do with its memory."""
_DRIVER_BYTES = 384 << 20
"""For kernels, and recorded graphs of a megabyte or two each."""
_COPIES, _COPIED_BYTES = 5, 1 << 30
"""Copies that measure the memory, and their bytes at most: more than any cache holds."""


def problem(variant: Variant) -> LlmcError | None:
    """E0514: no NVIDIA GPU here, or none that the kernels are for; E0703, a missing package."""
    try:
        found = cuda_device.facts(cuda_device.cuda_driver())
    except LlmcError as error:
        return error
    return gpu_problem(options_of(variant.options, TritonProgramOptions).plan, found)


def available_memory() -> int:
    """What the first GPU has left, beside what its driver will take."""
    return max(0, cuda_device.free_memory() - _DRIVER_BYTES)


def open_program(
    variant: Variant,
    program: bytes | memoryview,
    weights: memoryview | None,
    *,
    threads: int,
    cache_blocks: tuple[int, ...],
    state_slots: int = 0,
) -> "TritonExecutor":
    """The executor of target `triton`. Errors: E0509, E0514, E0601, E0722."""
    weights = memoryview(b"") if weights is None else weights
    gpu = cuda_device.CudaDevice()
    return TritonExecutor(variant, program, weights, gpu=gpu, cache_blocks=cache_blocks)


class TritonExecutor:
    """A loaded plan with its memory on `gpu`, which it closes in the end.

    Errors: E0509, a kernel can't be loaded; E0514, another GPU is needed; E0601, memory; E0722, the
    GPU fails, as it may in every later call.
    """

    def __init__(
        self,
        variant: Variant,
        program: bytes | memoryview,
        weights: memoryview,
        *,
        gpu: GpuDevice,
        cache_blocks: tuple[int, ...],
    ) -> None:
        self.limits: Limits = variant.limits
        self.cache_groups: tuple[CacheGroup, ...] = tuple(variant.cache_groups)
        self.cache_blocks = cache_blocks
        self.vocab_size = variant.vocab_size
        self._gpu, self._process, self._closed = gpu, os.getpid(), False
        self._plan = plan = options_of(variant.options, TritonProgramOptions).plan
        try:
            gpu.attach()
            loaded = load_program(variant, plan, memoryview(program), weights, gpu, cache_blocks)
            self._spaces, self._launches = loaded.spaces, loaded.launches
            self._graphs = StepGraphs(gpu, loaded.launches, self.limits)
            self._check = check = InputCheck(self)
            self._block = StepBlock(gpu, plan, loaded.spaces.step, AHEAD + 1, check.tables)
            self._slots = token_slots(gpu, self.limits.max_logits_rows, AHEAD)
            self._sampling = Sampling(
                gpu,
                plan,
                loaded.sampling,
                kept=loaded.spaces.kept,
                rows=self.limits.max_logits_rows,
                ahead=AHEAD,
            )
        except BaseException:
            self.close()
            raise
        self._under_way: list[ref[_Submitted] | None] = [None] * AHEAD
        self._count = 0
        self._rows, self._tokens = 0, 0  # of the last step: how many, and where they are
        self._logits: memoryview | None = None
        self._before_launch: Callable[[int], None] | None = None

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Runs one step; other Python threads go on meanwhile. E0722 if the GPU fails."""
        return self.submit(inputs).outputs()

    def submit(self, inputs: StepInputs, choices: Sequence[Choice] = ()) -> "_Submitted":
        """Begins a step. Errors: E0100 for inputs that kernels must not see, E0722."""
        if self._closed:
            raise LlmcError("LLMC-E0100", "the program is closed")
        if choices and not self._sampling.takes_all(choices):
            raise LlmcError("LLMC-E0100", "the program can't draw such a choice")
        self._check.check(inputs, self._rows)
        self._gpu.attach()
        place = self._count % AHEAD
        before = self._under_way[place]
        unread = before() if before is not None else None
        if unread is not None:  # what arrives for it would be overwritten
            unread.outputs()
        sizes = StepSizes(len(inputs.token_ids), len(inputs.context_len), len(inputs.logits_rows))
        self._run(inputs, sizes)
        self._count += 1
        draw = self._take_back(sizes, choices, place)
        step = _Submitted(self, self._count, self._slots[place], sizes, draw)
        self._under_way[place] = ref(step)
        return step

    def _run(self, inputs: StepInputs, sizes: StepSizes) -> None:
        padded = self._graphs.padded(sizes)
        self._block.send(inputs, padded or sizes, self._tokens)
        if padded is not None and self._before_launch is None:
            self._graphs.run(padded)
        else:
            self._launches.run(self._gpu, padded or sizes, self._before_launch)

    def _take_back(self, sizes: StepSizes, choices: Sequence[Choice], place: int) -> Draw | None:
        """Has the step's tokens sent to the host, and those drawn that come with it."""
        argmax = self._spaces.kept + self._plan.kept["argmax"].offset
        begin_tokens(self._gpu, self._slots[place], argmax, sizes.rows)
        self._rows, self._tokens = sizes.rows, argmax
        if not choices:
            return None
        draw = self._sampling.begin_with_step(sizes, choices, place)
        self._tokens = self._sampling.tokens
        return draw

    def draws(self, choice: Choice) -> bool:
        """Whether such choices can come with a step."""
        return self._sampling.takes(choice)

    def await_outputs(self, step: "_Submitted") -> StepOutputs:
        """Waits for a step, and reads what came back."""
        if self._closed:
            raise LlmcError("LLMC-E0100", "the program is closed")
        self._gpu.attach()
        self._gpu.wait(step.slot.arrived)
        if step.draw is not None:
            step.draw.finish(self._gpu)
        argmax = step.slot.ints[: step.sizes.rows].tolist()
        # These don't keep the step, which keeps them.
        of_step = step.number, step.sizes
        draw = partial(self._draw, *of_step) if self._sampling.available else None
        return StepOutputs(partial(self._rows_of_logits, *of_step), argmax, draw)

    def _draw(self, number: int, sizes: StepSizes, choices: Sequence[Choice]) -> None:
        """Draws from the rows of the last step."""
        self._require_last(number)
        self._sampling.draw(sizes, choices)

    def _require_last(self, number: int) -> None:
        if self._closed or number != self._count:
            raise LlmcError("LLMC-E0100", "the logits of a step were asked for after the next one")
        self._gpu.attach()

    def _rows_of_logits(self, number: int, sizes: StepSizes) -> "Float32Array":
        """f32 [rows, vocab], in pinned memory that the next such call overwrites."""
        import numpy as np

        self._require_last(number)
        shape, nbytes = (sizes.rows, self.vocab_size), sizes.rows * self.vocab_size * 4
        if not nbytes:
            return np.empty(shape, np.float32)
        if self._logits is None or self._logits.nbytes < nbytes:
            if self._logits is not None:
                self._gpu.free_pinned(self._logits)
            self._logits = None
            self._logits = self._gpu.allocate_pinned(nbytes)
        target = self._logits[:nbytes]
        self._gpu.download(target, self._spaces.kept + self._plan.kept["logits"].offset)
        self._gpu.synchronize()
        return np.frombuffer(target, np.float32).reshape(shape)

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a block of a cache group, in the order of steps."""
        self._gpu.attach()
        base, size = self._spaces.cache[group], self.cache_groups[group].bytes_per_block
        if source != target:
            self._gpu.copy(base + target * size, base + source * size, size)

    def profiler(self) -> LaunchProfiler:
        """What notes the launches of steps."""

        def watch(before: Callable[[int], None] | None) -> None:
            self._before_launch = before

        return LaunchProfiler(self._gpu, self._plan, watch)

    def memory_read_gbs(self) -> float:
        """GB/s at which the GPU reads its memory while it writes as much, as copies do. The cache
        loses what it holds. Errors: E0722."""
        self._gpu.attach()
        pools = zip(self.cache_groups, self.cache_blocks, self._spaces.cache, strict=True)
        nbytes, target = max((g.bytes_per_block * count, place) for g, count, place in pools)
        half = min(nbytes // 2, _COPIED_BYTES)
        marks = [self._gpu.create_event(timed=True) for _ in range(_COPIES + 1)]
        for mark in marks:
            self._gpu.copy(target, target + half, half)
            self._gpu.record(mark)
        self._gpu.synchronize()
        times = [self._gpu.elapsed(*pair) for pair in pairwise(marks)]
        return 2 * half / max(min(times), 1e-9) / 1e9

    def close(self) -> None:
        """Waits for the GPU, and frees its memory."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() == self._process:  # a forked child has no GPU
            self._gpu.attach()
            self._gpu.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


class _Submitted:
    """A step of an executor that was begun, the `number`th of all. `draw`: what is drawn from it.
    The executor doesn't keep it, so that nobody is kept in turn."""

    __slots__ = ("__weakref__", "_executor", "_outputs", "draw", "number", "sizes", "slot")

    def __init__(
        self,
        executor: TritonExecutor,
        number: int,
        slot: TokenSlot,
        sizes: StepSizes,
        draw: Draw | None,
    ) -> None:
        self._executor: TritonExecutor = executor
        self._outputs: StepOutputs | None = None
        self.number, self.slot, self.sizes, self.draw = number, slot, sizes, draw

    def outputs(self) -> StepOutputs:
        """Waits until the step is done."""
        if self._outputs is None:
            self._outputs = self._executor.await_outputs(self)
        return self._outputs
