"""Runs a variant of target `trt`: its engine on a GPU, through `cuda.core` and TensorRT alone.

In: the variant and the engine's bytes. A step becomes runs over ranges of slots (`slots.py`): rows
that bring one token each in the decode profile, prompts one slot at a time in the prefill profile.
Caches are allocated once, zeroed, and bound as input and output of a run at the address of its
first slot, so that nothing of them is copied. Inputs go to the GPU as one block, logits come back.

What touches the GPU is `Gpu` (`tensorrt_gpu.py`); a run is a few calls of it.
"""

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ...artifact.manifest import ELEMENT_BYTES, Variant
from ...artifact.targets import CacheInput, TrtProgramOptions, options_of
from ...base.errors import LlmcError
from .slot_executor import SlotExecutor
from .slots import SlotRun
from .tensorrt_engine import DECODE, PREFILL, check_engine
from .tensorrt_gpu import CudaGpu, device_sm, free_memory

if TYPE_CHECKING:
    from ...base.arrays import Float32Array

CACHE_OUT = ".out"
_I32 = 4


class Gpu(Protocol):
    """What a program needs of a device with a loaded engine. Addresses are plain integers.

    Errors: E0722, the GPU fails; as it works by itself, a call may tell of an earlier failure.
    """

    def allocate(self, nbytes: int) -> int:
        """Zeroed device memory that lives as long as the program."""
        ...

    def upload(self, address: int, data: bytes) -> None: ...
    def download(self, address: int, nbytes: int) -> memoryview:
        """Waits for all that was begun; the memory is overwritten by the next download."""
        ...

    def copy(self, target: int, source: int, nbytes: int) -> None: ...
    def execute(self, profile: int, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        """Begins a run. `shapes`: of the inputs; `at`: addresses of inputs and outputs."""
        ...

    def close(self) -> None: ...


class Cache(Struct, frozen=True):
    """One cache of the engine, and where its slots lie."""

    name: str
    heads: int
    width: int
    slot_bytes: int
    address: int = 0


def problem(variant: Variant) -> LlmcError | None:
    """E0514: no NVIDIA GPU here, or none that the engine is for."""
    try:
        found = device_sm()
    except LlmcError as error:
        return error
    sms = engine_sms(variant)
    if found in sms:
        return None
    built = ", ".join(f"SM{sm}" for sm in sms)
    return LlmcError("LLMC-E0514", f"the engine is for {built}; this GPU is SM{found}")


CACHE_SHARE = 0.5
"""The runtime of engines takes memory of its own, of which it doesn't tell."""


def available_memory() -> int:
    """What the first GPU has left."""
    return free_memory()


def open_program(
    variant: Variant,
    program: bytes | memoryview,
    weights: memoryview | None,
    *,
    threads: int,
    cache_blocks: tuple[int, ...],
    state_slots: int = 0,
) -> "TensorRtExecutor":
    """Checks the engine's header, loads it and allocates. Errors: E0509, E0514, E0601."""
    version = options_of(variant.options, TrtProgramOptions).version
    check_engine(program, version, engine_sms(variant))
    return TensorRtExecutor(variant, CudaGpu(program), slots=min(cache_blocks))


def engine_sms(variant: Variant) -> tuple[int, ...]:
    """The SMs that the manifest says the engine is for."""
    return tuple(options_of(variant.options, TrtProgramOptions).sms)


class TensorRtExecutor(SlotExecutor):
    """An engine with its caches. `slots`: how many sequences have room."""

    def __init__(self, variant: Variant, gpu: Gpu, *, slots: int) -> None:
        options = options_of(variant.options, TrtProgramOptions)
        self._length = options.slot_length
        limits = replace(variant.limits, block_size=self._length)
        super().__init__(replace(variant, limits=limits), slots)
        self._gpu = gpu
        self._caches = [_allocated(cache, self._length, slots, gpu) for cache in options.caches]
        self._places = _input_places(limits.max_tokens, limits.max_sequences)
        self._inputs = gpu.allocate(self._places["logits_rows"] + limits.max_logits_rows * _I32)
        self._outputs = gpu.allocate(limits.max_logits_rows * self.vocab_size * _I32)

    def _run(self, run: SlotRun) -> None:
        for part in by_profile(run):
            self._place(part, self._run_part(part))

    def _run_part(self, run: SlotRun) -> "Float32Array":
        """One call of the engine; its logits, of row 0 where none are wanted."""
        import numpy as np

        wanted = run.logits_rows or [0]
        if run.query == 1:  # one shape for each number of slots, for the sake of CUDA graphs
            wanted = [*wanted, *[0] * (run.rows - len(wanted))]
        self._gpu.upload(self._inputs, self._pack(run, wanted))
        shapes: dict[str, tuple[int, ...]] = {
            "token_ids": (run.rows, run.query),
            "positions": (run.rows, run.query),
            "start": (run.rows,),
            "logits_rows": (len(wanted),),
        }
        at = {name: self._inputs + place for name, place in self._places.items()}
        at["logits"] = self._outputs
        for cache in self._caches:
            shapes[cache.name] = (run.rows, cache.heads, self._length, cache.width)
            first = cache.address + run.first * cache.slot_bytes
            at[cache.name] = at[cache.name + CACHE_OUT] = first
        self._gpu.execute(DECODE if run.query == 1 else PREFILL, shapes, at)
        data = self._gpu.download(self._outputs, len(wanted) * self.vocab_size * _I32)
        return np.frombuffer(data, np.float32).reshape(len(wanted), self.vocab_size)

    def _pack(self, run: SlotRun, logits_rows: list[int]) -> bytes:
        """The four inputs at their places, as one block."""
        block = bytearray(self._places["logits_rows"])
        parts = {"token_ids": run.token_ids, "positions": run.positions, "start": run.start}
        for name, numbers in parts.items():
            data = array("i", numbers).tobytes()
            block[self._places[name] : self._places[name] + len(data)] = data
        return bytes(block) + array("i", logits_rows).tobytes()

    def _copy_slot(self, source: int, target: int) -> None:
        for cache in self._caches:
            to, origin = (cache.address + slot * cache.slot_bytes for slot in (target, source))
            self._gpu.copy(to, origin, cache.slot_bytes)

    def _release(self) -> None:
        self._gpu.close()


def by_profile(run: SlotRun) -> Iterator[SlotRun]:
    """The run itself if every row brings one token, else one run a row that takes part.

    A row without logits to give may still be a prompt's first chunk: all rows are kept but those of
    padding alone, which the planner puts between others only.
    """
    if run.query == 1:
        yield run
        return
    for row in range(run.rows):
        begin, end = row * run.query, (row + 1) * run.query
        wanted = [i for i, at in enumerate(run.logits_rows) if begin <= at < end]
        yield SlotRun(
            first=run.first + row,
            rows=1,
            query=run.query,
            token_ids=run.token_ids[begin:end],
            positions=run.positions[begin:end],
            start=run.start[row : row + 1],
            logits_rows=[run.logits_rows[i] - begin for i in wanted],
            outputs=[run.outputs[i] for i in wanted],
        )


def _allocated(cache: CacheInput, length: int, slots: int, gpu: Gpu) -> Cache:
    """A cache of all slots, each `length` tokens long."""
    nbytes = cache.heads * length * cache.width * ELEMENT_BYTES[cache.dtype]
    return Cache(cache.name, cache.heads, cache.width, nbytes, gpu.allocate(nbytes * slots))


def _input_places(tokens: int, sequences: int) -> dict[str, int]:
    """Offsets of the inputs in their block, each a multiple of 256 (what CUDA aligns to)."""

    def aligned(count: int) -> int:
        return -(-count * _I32 // 256) * 256

    return {
        "token_ids": 0,
        "positions": aligned(tokens),
        "start": 2 * aligned(tokens),
        "logits_rows": 2 * aligned(tokens) + aligned(sequences),
    }
