"""Runs a variant of target `onnx` with ONNX Runtime; weights and caches stay where they are.

In: the variant's description, the model's bytes, the mapped data section of the weights. Every
step becomes runs over ranges of slots (`slots.py`). A cache holds all slots of one site, slot
outermost, and is allocated once: a run binds its range as input and output both, so the runtime
writes new keys and values in place and copies nothing.

`Variant.options`: `dialect` ("ort" has attention that takes one prompt at a time) and `provider`
("cpu" or "cuda").
"""

from math import prod
from typing import TYPE_CHECKING, Any

from ...artifact.manifest import Variant
from ...artifact.targets import CacheInput, OnnxProgramOptions, options_of
from ...base import machine
from ...base.errors import LlmcError
from .onnx_weights import ExternalWeight, external_weights
from .slot_executor import SlotExecutor, array_of, first_line, zeros
from .slots import SlotRun

if TYPE_CHECKING:
    import numpy as np

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL_ONLY = 4
_PREPARED = 64
"""Bindings that are kept for decode steps: one for each range of slots."""


def problem(variant: Variant) -> LlmcError | None:
    """Why the installed onnxruntime can't run a variant: it lacks the variant's provider."""
    provider = options_of(variant.options, OnnxProgramOptions).provider
    if _PROVIDERS[provider] in _onnxruntime().get_available_providers():
        return None
    package = "onnxruntime-gpu" if provider == "cuda" else "onnxruntime"
    return LlmcError(
        "LLMC-E0703",
        f"the installed onnxruntime has no {provider} provider",
        hint=f"install {package}",
    )


CACHE_SHARE = 0.5
"""It leaves room for other programs and for files that are read."""


def available_memory() -> int:
    """What the machine has left."""
    return machine.available_memory()


def open_program(
    variant: Variant,
    program: bytes | memoryview,
    weights: memoryview | None,
    *,
    threads: int,
    cache_blocks: tuple[int, ...],
    state_slots: int = 0,
) -> "OnnxExecutor":
    """Starts a program: see `OnnxExecutor`."""
    return OnnxExecutor(variant, program, weights, threads=threads, cache_blocks=cache_blocks)


class OnnxExecutor(SlotExecutor):
    """One session with its caches.

    `program`: a serialized model; `weights`: the data section that its initializers lie in, kept
    mapped by this object; `cache_blocks`: slots, the same number in every group. Errors: E0509 when
    the model can't be loaded, E0601 when memory can't be had, E0703 without onnxruntime.
    """

    def __init__(
        self,
        variant: Variant,
        program: bytes | memoryview,
        weights: memoryview | None,
        *,
        threads: int,
        cache_blocks: tuple[int, ...],
    ) -> None:
        slots = min(cache_blocks, default=variant.limits.max_sequences)
        options = options_of(variant.options, OnnxProgramOptions)
        super().__init__(variant, slots, prompts_alone=options.dialect == "ort")
        self._ort = _onnxruntime()
        self._provider = options.provider
        self._session: Any = self._open(bytes(program), weights, threads)
        known = {one.name for one in self._session.get_inputs()}
        strange = [one.name for one in options.caches if one.name not in known]
        if strange:
            raise LlmcError("LLMC-E0509", f"the model has no cache {strange[0]!r}")
        self._caches = {one.name: self._cache(one, slots) for one in options.caches}
        self._prepared: dict[tuple[int, ...], _Call] = {}

    def _open(self, program: bytes, weights: memoryview | None, threads: int) -> Any:
        """The session, which says nothing on its own and reports nothing to anybody."""
        ort = self._ort
        ort.disable_telemetry_events()
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads take pieces of what is left, rather than halves: one that is late holds up less.
        options.add_session_config_entry("session.dynamic_block_base", "4")
        self._weights = _lend(ort, options, external_weights(program), weights)
        try:
            return ort.InferenceSession(program, options, providers=[_PROVIDERS[self._provider]])
        except MemoryError as error:
            raise LlmcError("LLMC-E0601", "the model doesn't fit in memory") from error
        except Exception as error:  # its errors have no common class of their own
            cause = f"onnxruntime refuses the model: {first_line(error)}"
            raise LlmcError("LLMC-E0509", cause) from error

    def _cache(self, one: CacheInput, slots: int) -> "_Cache":
        """Zeros for every slot: a masked value times zero must be zero, so none may be NaN."""
        import numpy as np

        element = np.float16 if one.dtype == "f16" else np.float32
        whole = (slots, one.heads, self.limits.block_size, one.width)
        if self._provider == "cpu":
            return _Cache("cpu", whole, zeros(whole, element), element)
        value = self._ort.OrtValue.ortvalue_from_numpy(np.zeros(whole, element), "cuda", 0)
        return _Cache("cuda", whole, value, element)

    def _run(self, run: SlotRun) -> None:
        """Where rows of logits lie together in the step's, the session writes them there."""
        first = run.outputs[0] if run.outputs else 0
        if not run.outputs or run.outputs != list(range(first, first + len(run.outputs))):
            self._scattered(run)
            return
        rows = len(run.outputs)
        key = (run.first, run.rows, rows, first)
        call = self._prepared.pop(key, None) if run.query == 1 else None
        if call is None:
            call = self._bound(run, self._logits[first : first + rows])
        if run.query == 1:
            if len(self._prepared) >= _PREPARED:
                self._prepared.pop(next(iter(self._prepared)))
            self._prepared[key] = call
        call.fill(run)
        self._session.run_with_iobinding(call.binding)

    def _scattered(self, run: SlotRun) -> None:
        """A run whose logits rows lie apart in the step's, or that has none (it makes one)."""
        import numpy as np

        logits = np.empty((max(1, len(run.logits_rows)), self.vocab_size), np.float32)
        call = self._bound(run, logits)
        call.fill(run)
        self._session.run_with_iobinding(call.binding)
        self._place(run, logits)

    def _bound(self, run: SlotRun, logits: "np.ndarray") -> "_Call":
        """A binding of a range of slots, with arrays for the other inputs."""
        import numpy as np

        binding, value = self._session.io_binding(), self._ort.OrtValue.ortvalue_from_numpy
        for name, cache in self._caches.items():
            place = cache.range(run.first, run.rows)
            binding.bind_input(name, *place)
            binding.bind_output(f"{name}.out", *place)
        call = _Call(
            binding,
            np.zeros((run.rows, run.query), np.int64),
            np.zeros(run.rows, np.int64),
            np.zeros(len(logits), np.int64),
        )
        for name, array in zip(("token_ids", "start", "logits_rows"), call.arrays, strict=True):
            binding.bind_ortvalue_input(name, value(array))
        binding.bind_ortvalue_output("logits", value(logits))
        return call

    def _copy_slot(self, source: int, target: int) -> None:
        for cache in self._caches.values():
            cache.copy(source, target)

    def _release(self) -> None:
        """Ends the session, which stops its threads."""
        self._session = None
        self._prepared, self._caches, self._weights = {}, {}, []


class _Call:
    """A binding with the arrays that its inputs are read from: filling them is all a step needs."""

    def __init__(self, binding: Any, *arrays: "np.ndarray") -> None:
        self.binding, self.arrays = binding, arrays

    def fill(self, run: SlotRun) -> None:
        token_ids, start, rows = self.arrays
        token_ids.reshape(-1)[:] = run.token_ids
        start[:] = run.start
        rows[:] = run.logits_rows or [0]


class _Cache:
    """Keys or values of all slots: an array, or on a GPU a value of the runtime."""

    def __init__(self, device: str, shape: tuple[int, ...], memory: Any, element: Any) -> None:
        self._device, self._shape, self._memory, self._element = device, shape, memory, element
        self._address = memory.ctypes.data if device == "cpu" else memory.data_ptr()
        self._slot_bytes = prod(shape[1:]) * element().itemsize

    def range(self, first: int, rows: int) -> tuple[str, int, Any, tuple[int, ...], int]:
        """What a binding wants to know of slots `first` to `first + rows - 1`."""
        address = self._address + first * self._slot_bytes
        return self._device, 0, self._element, (rows, *self._shape[1:]), address

    def copy(self, source: int, target: int) -> None:
        """Copies a slot's content."""
        if self._device == "cpu":
            self._memory[target] = self._memory[source]
        else:
            whole = self._memory.numpy()
            whole[target] = whole[source]
            self._memory.update_inplace(whole)


def _onnxruntime() -> Any:
    """The package. E0703 if it isn't installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise LlmcError(
            "LLMC-E0703",
            "onnxruntime is not installed",
            hint="install it with pip install 'llmc-compiler[onnx]'",
        ) from error
    return onnxruntime


def _lend(
    ort: Any, options: Any, wanted: list[ExternalWeight], weights: memoryview | None
) -> list[Any]:
    """Give a session the weights; what the result holds must live as long as the session.

    Tensors of types that numpy has stay where they are. Those of 4 bits can be had from a file
    only, which the runtime copies.
    """
    for one in wanted:
        if weights is None or not 0 <= one.offset <= one.offset + one.nbytes <= len(weights):
            raise LlmcError("LLMC-E0509", f"the weights lack the model's tensor {one.name}")
    if not wanted or weights is None:
        return []
    views = [one for one in wanted if one.data_type in _STORAGE]
    tensors = [_tensor(ort, one, weights) for one in views]
    options.add_external_initializers([one.name for one in views], tensors)
    if len(views) < len(wanted):
        locations = sorted({one.location for one in wanted})
        count = len(locations)
        options.add_external_initializers_from_files_in_memory(
            locations, [weights] * count, [len(weights)] * count
        )
    return tensors


def _tensor(ort: Any, weight: ExternalWeight, weights: memoryview) -> Any:
    """One tensor of the weights, where it lies."""
    place = weights[weight.offset : weight.offset + weight.nbytes]
    storage, onnx_type = _STORAGE[weight.data_type]
    try:
        array = array_of(place, weight.shape, storage)
    except ValueError as error:
        raise LlmcError("LLMC-E0509", f"{weight.name} has another size than its shape") from error
    if onnx_type:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx_type)
    return ort.OrtValue.ortvalue_from_numpy(array)


_BF16 = 16
_STORAGE: dict[int, tuple[str, int]] = {
    1: ("float32", 0),
    2: ("uint8", 0),
    3: ("int8", 0),
    6: ("int32", 0),
    7: ("int64", 0),
    9: ("bool", 0),
    10: ("float16", 0),
    _BF16: ("uint16", _BF16),
}
"""Element types of onnx.proto → numpy's, and the type to tell where numpy has none."""
