"""A GPU with a loaded engine: memory and streams by `cuda.core`, runs by TensorRT for RTX.

One execution context a profile. The decode context records CUDA graphs by itself: kernels are
specialized to shapes when they are first met, which a recording of ours could meet halfway.

None of this has been run: no GPU of the SMs that TensorRT for RTX builds for was at hand.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ...base.errors import LlmcError
from .slot_executor import first_line
from .tensorrt_engine import DECODE, PREFILL
from .tensorrt_library import MESSAGES, library, logger, readable


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
        raise LlmcError("LLMC-E0514", f"no NVIDIA GPU can be used: {first_line(error)}") from error
    return capability.major * 10 + capability.minor


def free_memory() -> int:
    """Bytes that are free on the first GPU. Errors: E0514."""
    runtime = import_module("cuda.bindings.runtime")
    import_module("cuda.core").Device().set_current()
    error, free, _ = runtime.cudaMemGetInfo()
    if error != runtime.cudaError_t.cudaSuccess:
        raise LlmcError("LLMC-E0514", f"the GPU doesn't say how much memory it has: {error.name}")
    return free


@contextmanager
def gpu_work(what: str, identifier: str = "LLMC-E0722") -> Iterator[None]:
    """Around calls that may fail with an error of CUDA's, which becomes one of ours."""
    try:
        yield
    except LlmcError:
        raise
    except Exception as error:
        raise LlmcError(identifier, f"{what}: {first_line(error)}") from error


class CudaGpu:
    """The first GPU. Errors: E0509, the engine can't be loaded; E0601, no memory; E0722, the GPU
    fails later."""

    def __init__(self, engine: bytes | memoryview) -> None:
        cuda = import_module("cuda.core")
        self._trt = library()
        self._device = cuda.Device()
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._pinned = cuda.LegacyPinnedMemoryResource()
        self._staging: dict[str, Any] = {}
        self._buffers: list[Any] = []
        self._bound: list[dict[str, Any]] = [{}, {}]
        MESSAGES.take()
        self._runtime = self._trt.Runtime(logger())
        self._engine: Any = self._runtime.deserialize_cuda_engine(bytes(engine))
        if self._engine is None:
            reason = readable(MESSAGES.take()[0])
            raise LlmcError("LLMC-E0509", f"TensorRT can't load the engine: {reason}")
        self._contexts = [self._context(profile) for profile in (DECODE, PREFILL)]

    def _context(self, profile: int) -> Any:
        config = self._engine.create_runtime_config()
        if profile == DECODE:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = self._engine.create_execution_context(config)
        if context is None:
            reason = readable(MESSAGES.take()[0])
            raise LlmcError("LLMC-E0601", f"no GPU memory for the engine's context: {reason}")
        context.set_optimization_profile_async(profile, int(self._stream.handle))
        self._stream.sync()
        return context

    def allocate(self, nbytes: int) -> int:
        """Zeroed device memory. Errors: E0601."""
        with gpu_work(f"the GPU has no {nbytes >> 20} MiB", "LLMC-E0601"):
            buffer = self._device.allocate(nbytes, stream=self._stream)
        self._buffers.append(buffer)
        with gpu_work("the GPU didn't clear its memory"):
            buffer.fill(0, stream=self._stream)
        return int(buffer.handle)

    def _staged(self, use: str, nbytes: int) -> tuple[Any, memoryview]:
        """Pinned host memory of at least `nbytes`, one piece for each use."""
        held = self._staging.get(use)
        if held is None or held.size < nbytes:
            self._wait()
            with gpu_work(f"there are no {nbytes >> 20} MiB of pinned memory", "LLMC-E0601"):
                held = self._staging[use] = self._pinned.allocate(nbytes, stream=self._stream)
        view = (ctypes.c_char * nbytes).from_address(int(held.handle))
        return held, memoryview(view).cast("B")

    def upload(self, address: int, data: bytes) -> None:
        """From the host; `data` may be reused at once."""
        held, view = self._staged("inputs", len(data))
        view[:] = data
        self.copy(address, int(held.handle), len(data))

    def download(self, address: int, nbytes: int) -> memoryview:
        """To the host, when all before it is done."""
        held, view = self._staged("outputs", nbytes)
        self.copy(int(held.handle), address, nbytes)
        self._wait()
        return view

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Between any two addresses that the GPU knows."""
        driver = import_module("cuda.bindings.driver")
        (status,) = driver.cuMemcpyAsync(target, source, nbytes, int(self._stream.handle))
        if status != driver.CUresult.CUDA_SUCCESS:
            raise LlmcError("LLMC-E0722", f"a copy on the GPU failed: {status.name}")

    def _wait(self) -> None:
        """Until the GPU has done all that was begun; what failed of it is told here."""
        with gpu_work("the GPU failed"):
            self._stream.sync()

    def execute(self, profile: int, shapes: dict[str, tuple[int, ...]], at: dict[str, int]) -> None:
        """Begins a run. Shapes and addresses are set where they differ from the last run's."""
        context, bound = self._contexts[profile], self._bound[profile]
        for name, shape in shapes.items():
            if bound.get(f"{name}.shape") != shape:
                if not context.set_input_shape(name, shape):
                    raise _refused(f"input {name} of {shape}")
                bound[f"{name}.shape"] = shape
        for name, address in at.items():
            if bound.get(name) != address:
                context.set_tensor_address(name, address)
                bound[name] = address
        if not context.execute_async_v3(int(self._stream.handle)):
            raise _refused("a run")

    def close(self) -> None:
        """Everything that lives on the device."""
        self._stream.sync()
        self._contexts.clear()
        del self._engine, self._runtime
        for buffer in (*self._buffers, *self._staging.values()):
            buffer.close()
        self._stream.close()


def _refused(what: str) -> LlmcError:
    return LlmcError("LLMC-E0722", f"TensorRT refuses {what}: {readable(MESSAGES.take()[0])}")
