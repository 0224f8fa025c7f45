"""The GPU's side of target `trt` against stand-ins for cuda.core, the driver and TensorRT."""

from types import SimpleNamespace
from typing import Any

import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.executors import tensorrt_gpu, tensorrt_library
from llmc.runtime.executors.tensorrt_engine import DECODE

SUCCESS, ILLEGAL = SimpleNamespace(name="CUDA_SUCCESS"), SimpleNamespace(name="ILLEGAL_ADDRESS")


class Stream:
    handle = 7
    broken = False

    def sync(self) -> None:
        if self.broken:
            raise RuntimeError("an illegal memory access was encountered\nmore")

    def close(self) -> None: ...


class Context:
    runs = takes_shapes = True

    def set_optimization_profile_async(self, profile: int, stream: int) -> None: ...
    def set_tensor_address(self, name: str, address: int) -> None: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self.takes_shapes

    def execute_async_v3(self, stream: int) -> bool:
        return self.runs


class Memory:
    """A pool of host or device memory, which may be empty or not take a value."""

    def __init__(self) -> None:
        self.empty = self.stuck = False

    def allocate(self, nbytes: int, stream: Any) -> Any:
        if self.empty:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        data = (tensorrt_gpu.ctypes.c_char * nbytes)()
        address = tensorrt_gpu.ctypes.addressof(data)
        return SimpleNamespace(data=data, handle=address, size=nbytes, fill=self._fill)

    def _fill(self, value: int, stream: Any) -> None:
        if self.stuck:
            raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")


class Machine:
    """What `tensorrt_gpu` imports, each part of which can be told to fail."""

    def __init__(self) -> None:
        self.stream, self.context = Stream(), Context()
        self.device_memory, self.pinned, self.status = Memory(), Memory(), SUCCESS
        self.engine: Any = SimpleNamespace(
            create_runtime_config=SimpleNamespace,
            create_execution_context=lambda config: self.context,
        )

    def import_module(self, name: str) -> Any:
        if name == "cuda.bindings.driver":
            return SimpleNamespace(
                cuMemcpyAsync=lambda *_: (self.status,),
                CUresult=SimpleNamespace(CUDA_SUCCESS=SUCCESS),
            )
        device = SimpleNamespace(
            set_current=lambda: None,
            create_stream=lambda: self.stream,
            allocate=self.device_memory.allocate,
        )
        return SimpleNamespace(
            Device=lambda: device, LegacyPinnedMemoryResource=lambda: self.pinned
        )

    def library(self) -> Any:
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: self.engine)
        strategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)
        return SimpleNamespace(Runtime=lambda logger: runtime, CudaGraphStrategy=strategy)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(tensorrt_gpu, "import_module", machine.import_module)
    monkeypatch.setattr(tensorrt_gpu, "library", machine.library)
    monkeypatch.setattr(tensorrt_gpu, "logger", lambda: None)
    return machine


def refused(call: Any, *arguments: Any) -> LlmcError:
    with pytest.raises(LlmcError) as raised:
        call(*arguments)
    return raised.value


def test_a_gpu_that_fails_while_the_model_runs_is_no_engine_that_cannot_be_loaded(
    machine: Machine,
) -> None:
    gpu = tensorrt_gpu.CudaGpu(b"engine")
    address = gpu.allocate(64)
    machine.status = ILLEGAL
    for call in ((gpu.copy, address, address, 8), (gpu.upload, address, b"12345678")):
        error = refused(*call)
        assert (error.id, error.exit_code) == ("LLMC-E0722", 7)
        assert "ILLEGAL_ADDRESS" in error.message
    machine.status = SUCCESS
    machine.stream.broken = True  # an earlier run's failure, told when the GPU is waited for
    error = refused(gpu.download, address, 8)
    assert error.id == "LLMC-E0722"
    assert error.message == "the GPU failed: an illegal memory access was encountered"
    machine.context.takes_shapes = False
    assert refused(gpu.execute, DECODE, {"start": (3,)}, {}).id == "LLMC-E0722"
    machine.context.takes_shapes, machine.context.runs = True, False
    error = refused(gpu.execute, DECODE, {"start": (3,)}, {})
    assert (error.id, error.message[:23]) == ("LLMC-E0722", "TensorRT refuses a run:")


def test_memory_that_is_not_there_and_engines_that_do_not_load(machine: Machine) -> None:
    gpu = tensorrt_gpu.CudaGpu(b"engine")
    machine.device_memory.stuck = True
    assert refused(gpu.allocate, 64).id == "LLMC-E0722"
    machine.device_memory.empty = machine.pinned.empty = True
    assert (
        refused(gpu.allocate, 5 << 20).message == "the GPU has no 5 MiB: CUDA_ERROR_OUT_OF_MEMORY"
    )
    assert refused(gpu.upload, 1, b"x").id == "LLMC-E0601"
    machine.context = None  # type: ignore[assignment]
    assert refused(tensorrt_gpu.CudaGpu, b"engine").id == "LLMC-E0601"
    machine.engine = None
    assert refused(tensorrt_gpu.CudaGpu, b"engine").id == "LLMC-E0509"


def test_the_datacenter_library_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds engines that nothing here opens: refused before anything is built."""
    asked = []

    def missing(name: str) -> Any:
        asked.append(name)
        raise ImportError(name)

    monkeypatch.setattr(tensorrt_library.importlib, "import_module", missing)
    error = refused(tensorrt_library.library.__wrapped__)
    assert error.id == "LLMC-E0703"
    assert "TensorRT for RTX" in error.message
    assert "tensorrt" not in asked
    assert asked
