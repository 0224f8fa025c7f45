"""A GPU with a loaded engine: memory and streams by `cuda.core`, runs by TensorRT.

One execution context a profile. With TensorRT for RTX the decode context records CUDA graphs by
itself (its kernels are specialized to shapes when they are first met, which a recording of ours
could meet halfway); with the datacenter library decode runs are recorded here, a graph for each
number of slots and first slot.

None of this has been run: no GPU of the SMs that TensorRT for RTX builds for was at hand.
"""

import ctypes
from collections import OrderedDict
from importlib import import_module
from typing import Any

from ...base.errors import LlmcError
from .tensorrt_engine import DECODE, PREFILL
from .tensorrt_library import MESSAGES, is_rtx, library, logger, readable

GRAPHS_KEPT = 64
"""Recorded runs; a scheduler that keeps slots dense needs one for each number of sequences."""


def device_sm() -> int:
    """Compute capability of the first GPU, as in `SM89`. Errors: E0514, E0703."""
    try:
        cuda = import_module("cuda.core")
    except ImportError as error:
        raise LlmcError(
            "LLMC-E0703", "the trt target needs cuda-core", hint='pip install "llmc-compiler[trt]"'
        ) from error
    try:
        capability = cuda.Device().compute_capability
    except Exception as error:  # cuda.core has a class of its own for each missing piece
        raise LlmcError("LLMC-E0514", f"no NVIDIA GPU can be used: {_first_line(error)}") from error
    return capability.major * 10 + capability.minor


def free_memory() -> int:
    """Bytes that are free on the first GPU. Errors: E0514."""
    runtime = import_module("cuda.bindings.runtime")
    import_module("cuda.core").Device().set_current()
    error, free, _ = runtime.cudaMemGetInfo()
    if error != runtime.cudaError_t.cudaSuccess:
        raise LlmcError("LLMC-E0514", f"the GPU doesn't say how much memory it has: {error.name}")
    return free


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


class CudaGpu:
    """The first GPU. Errors: E0509, the engine can't be loaded; E0601, no memory."""

    def __init__(self, engine: bytes | memoryview) -> None:
        cuda = import_module("cuda.core")
        self._trt = library()
        self._device = cuda.Device()
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._pinned = cuda.LegacyPinnedMemoryResource()
        self._staging: dict[str, Any] = {}
        self._buffers: list[Any] = []
        self._graphs: OrderedDict[tuple, Any] = OrderedDict()
        self._bound: list[dict[str, Any]] = [{}, {}]
        MESSAGES.take()
        self._runtime = self._trt.Runtime(logger())
        self._engine: Any = self._runtime.deserialize_cuda_engine(bytes(engine))
        if self._engine is None:
            reason = readable(MESSAGES.take()[0])
            raise LlmcError("LLMC-E0509", f"TensorRT can't load the engine: {reason}")
        self._contexts = [self._context(profile) for profile in (DECODE, PREFILL)]

    def _context(self, profile: int) -> Any:
        if is_rtx(self._trt):
            config = self._engine.create_runtime_config()
            if profile == DECODE:
                strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                config.cuda_graph_strategy = strategy
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            reason = readable(MESSAGES.take()[0])
            raise LlmcError("LLMC-E0601", f"no GPU memory for the engine's context: {reason}")
        context.set_optimization_profile_async(profile, int(self._stream.handle))
        self._stream.sync()
        return context

    def allocate(self, nbytes: int) -> int:
        """Zeroed device memory. Errors: E0601."""
        try:
            buffer = self._device.allocate(nbytes, stream=self._stream)
        except Exception as error:
            asked = f"{nbytes >> 20} MiB"
            raise LlmcError(
                "LLMC-E0601", f"the GPU has no {asked}: {_first_line(error)}"
            ) from error
        buffer.fill(0, stream=self._stream)
        self._buffers.append(buffer)
        return int(buffer.handle)

    def _staged(self, use: str, nbytes: int) -> tuple[Any, memoryview]:
        """Pinned host memory of at least `nbytes`, one piece for each use."""
        held = self._staging.get(use)
        if held is None or held.size < nbytes:
            self._stream.sync()
            held = self._staging[use] = self._pinned.allocate(nbytes, stream=self._stream)
        view = (ctypes.c_char * nbytes).from_address(int(held.handle))
        return held, memoryview(view).cast("B")

    def upload(self, address: int, data: bytes) -> None:
        """From the host; `data` may be reused at once."""
        held, view = self._staged("inputs", len(data))
        view[:] = data
        self._copy(address, int(held.handle), len(data))

    def download(self, address: int, nbytes: int) -> memoryview:
        """To the host, when all before it is done."""
        held, view = self._staged("outputs", nbytes)
        self._copy(int(held.handle), address, nbytes)
        self._stream.sync()
        return view

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Within the device."""
        self._copy(target, source, nbytes)

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        driver = import_module("cuda.bindings.driver")
        (status,) = driver.cuMemcpyAsync(target, source, nbytes, int(self._stream.handle))
        if status != driver.CUresult.CUDA_SUCCESS:
            raise LlmcError("LLMC-E0509", f"a copy on the GPU failed: {status.name}")

    def execute(self, profile: int, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        """Begins a run; a decode run of the datacenter library is replayed once it is recorded."""
        if profile != DECODE or is_rtx(self._trt):
            self._bind(profile, shapes, at)
            self._enqueue(profile, self._stream)
            return
        key = (*shapes["token_ids"], *at.values())
        graph = self._graphs.get(key)
        if graph is None:
            self._bind(profile, shapes, at)
            self._enqueue(
                profile, self._stream
            )  # a first run outside: lazy setup can't be recorded
            self._stream.sync()
            graph = self._graphs[key] = self._record(profile)
            if len(self._graphs) > GRAPHS_KEPT:
                self._graphs.popitem(last=False)
            return
        self._graphs.move_to_end(key)
        graph.launch(self._stream)

    def _bind(self, profile: int, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        """Shapes and addresses that differ from the last run's."""
        context, bound = self._contexts[profile], self._bound[profile]
        for name, shape in shapes.items():
            if bound.get(f"{name}.shape") != shape:
                if not context.set_input_shape(name, shape):
                    raise self._failed(f"input {name} of {shape}")
                bound[f"{name}.shape"] = shape
        for name, address in at.items():
            if bound.get(name) != address:
                context.set_tensor_address(name, address)
                bound[name] = address

    def _enqueue(self, profile: int, stream: Any) -> None:
        if not self._contexts[profile].execute_async_v3(int(stream.handle)):
            raise self._failed("a run")

    def _record(self, profile: int) -> Any:
        builder = self._stream.create_graph_builder()
        builder.begin_building()
        self._enqueue(profile, self._stream)
        return builder.end_building().complete()

    def _failed(self, what: str) -> LlmcError:
        return LlmcError("LLMC-E0509", f"TensorRT refuses {what}: {readable(MESSAGES.take()[0])}")

    def close(self) -> None:
        """Everything that lives on the device."""
        self._stream.sync()
        self._graphs.clear()
        self._contexts.clear()
        del self._engine, self._runtime
        for buffer in (*self._buffers, *self._staging.values()):
            buffer.close()
        self._stream.close()
