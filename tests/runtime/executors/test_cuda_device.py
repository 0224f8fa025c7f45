"""The GPU behind the driver's interface: its calls and their errors, with a driver that plays
along. Structures are those of `cuda.bindings`; nothing here runs on a GPU."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.executors import cuda_device
from llmc.runtime.executors.gpu_device import Kernel, LaunchShape

bindings = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
SUCCESS = bindings.CUresult.CUDA_SUCCESS
ILLEGAL = bindings.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
ATTRIBUTES = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
    "MULTIPROCESSOR_COUNT": 132,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
}


class Driver:
    """Notes every call. `broken`: names of calls that fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.broken: set[str] = set()
        self.memory: dict[int, Any] = {}
        self.launched: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return getattr(bindings, name)
        assert hasattr(bindings, name), f"there is no {name}"

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if name in self.broken:
                return (ILLEGAL, *([0] * 2)) if name == "cuMemGetInfo" else (ILLEGAL,)
            return (SUCCESS, *getattr(self, f"_{name}", lambda *_: ())(*arguments))

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _host(self, nbytes: int) -> int:
        data = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(data)] = data
        return ctypes.addressof(data)

    def _cuDeviceGet(self, number: int) -> tuple[Any]:
        return (bindings.CUdevice(number),)

    def _cuDeviceGetAttribute(self, key: Any, device: Any) -> tuple[int]:
        return (ATTRIBUTES[key.name.removeprefix("CU_DEVICE_ATTRIBUTE_")],)

    def _cuDeviceGetName(self, length: int, device: Any) -> tuple[bytes]:
        return (b"A GPU\0\0\0",)

    def _cuDriverGetVersion(self) -> tuple[int]:
        return (13020,)

    def _cuDeviceTotalMem(self, device: Any) -> tuple[int]:
        return (1 << 37,)

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return (1 << 36, 1 << 37)

    def _cuDevicePrimaryCtxRetain(self, device: Any) -> tuple[Any]:
        return (bindings.CUcontext(11),)

    def _cuStreamCreate(self, flags: int) -> tuple[Any]:
        return (bindings.CUstream(12),)

    def _cuEventCreate(self, flags: int) -> tuple[Any]:
        return (bindings.CUevent(13),)

    def _cuMemAlloc(self, nbytes: int) -> tuple[Any]:
        return (bindings.CUdeviceptr(1 << 30),)

    def _cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[int]:
        return (self._host(nbytes),)

    def _cuModuleLoadData(self, image: bytes) -> tuple[Any]:
        return (bindings.CUmodule(14),)

    def _cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[Any]:
        return (bindings.CUfunction(15),)

    def _cuStreamEndCapture(self, stream: Any) -> tuple[Any]:
        return (bindings.CUgraph(16),)

    def _cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any]:
        return (bindings.CUgraphExec(17),)

    def _cuLaunchKernelEx(self, config: Any, kernel: int, parameters: int, extra: int) -> tuple[()]:
        five = (ctypes.c_size_t * 5).from_address(extra)
        assert (five[0], five[2], five[4]) == (1, 2, 0)  # CU_LAUNCH_PARAM_* of cuda.h
        nbytes = ctypes.c_size_t.from_address(five[3]).value
        self.launched.append(ctypes.string_at(five[1], nbytes))
        return ()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(cuda_device, "import_module", lambda name: driver)
    return driver


def refused(call: Any, *arguments: Any) -> LlmcError:
    with pytest.raises(LlmcError) as raised:
        call(*arguments)
    return raised.value


def test_what_the_gpu_is(driver: Driver) -> None:
    found = cuda_device.facts(cuda_device.cuda_driver())
    assert found == ("A GPU", 90, 132, 13020, 232448, 0, 1 << 37)
    assert "cuDevicePrimaryCtxRetain" not in driver.names()  # a context takes memory
    assert cuda_device.free_memory() == 1 << 36
    assert cuda_device.CudaDevice().properties == found._replace(free_memory=1 << 36)
    assert driver.names().count("cuDevicePrimaryCtxRetain") == 1


def test_no_bindings_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    driver.broken.add("cuInit")
    assert refused(cuda_device.cuda_driver).message.endswith("CUDA_ERROR_ILLEGAL_ADDRESS")

    def no_library(flags: int) -> Any:
        raise RuntimeError("libcuda.so.1\nwas not found")

    stand_in = SimpleNamespace(cuInit=no_library)
    monkeypatch.setattr(cuda_device, "import_module", lambda name: stand_in)
    error = refused(cuda_device.cuda_driver)
    assert (error.id, error.message) == ("LLMC-E0514", "there is no NVIDIA driver here")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(cuda_device, "import_module", missing)
    assert refused(cuda_device.cuda_driver).id == "LLMC-E0703"


def test_a_launch_passes_packed_parameters_and_says_how_it_may_run(driver: Driver) -> None:
    gpu = cuda_device.CudaDevice()
    kernel = gpu.load_kernel(memoryview(b"cubin"), "add", 64 << 10)
    assert driver.calls[-1][1][1:] == (
        bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        64 << 10,
    )
    shape = LaunchShape(256, 64 << 10, overlaps=True, cooperative=True)
    for parameters, grid in ((b"12345678", (3, 2, 1)), (b"1234567890ab", (5, 1, 1))):
        gpu.launch(kernel, grid, shape, parameters)
        config, function, none, _ = driver.calls[-1][1]
        assert (function, none) == (15, 0)
        assert (config.gridDimX, config.gridDimY, config.gridDimZ) == grid
        assert (config.blockDimX, config.blockDimY, config.blockDimZ) == (256, 1, 1)
        assert (config.sharedMemBytes, int(config.hStream)) == (64 << 10, 12)
        assert [attribute.id.name for attribute in config.attrs] == [
            "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION",
            "CU_LAUNCH_ATTRIBUTE_COOPERATIVE",
        ]
        assert config.numAttrs == 2
        assert config.attrs[0].value.programmaticStreamSerializationAllowed == 1
        assert config.attrs[1].value.cooperative == 1
    assert driver.launched == [b"12345678", b"1234567890ab"]
    gpu.load_kernel(memoryview(b"cubin"), "small", 48 << 10)
    assert driver.calls[-1][0] == "cuFuncLoad"
    gpu.launch(kernel, (1, 1, 1), LaunchShape(32), b"")
    assert driver.calls[-1][1][0].numAttrs == 0


def test_copies_name_the_memory_they_are_about(driver: Driver) -> None:
    gpu = cuda_device.CudaDevice()
    host = gpu.allocate_pinned(10)
    host[:] = b"0123456789"
    ((start, data),) = driver.memory.items()
    assert data.raw == b"0123456789"
    gpu.upload(1 << 30, host[2:5])
    assert driver.calls[-1][1][:3] == (1 << 30, start + 2, 3)
    gpu.download(host[4:], 77)
    assert driver.calls[-1][1][:3] == (start + 4, 77, 6)
    gpu.free_pinned(host)
    assert driver.calls[-1] == ("cuMemFreeHost", (start,))


CALLS: dict[str, Any] = {
    "cuMemGetInfo": lambda gpu: gpu.properties,
    "cuMemsetD8Async": lambda gpu: gpu.fill(1, 0, 1),
    "cuMemcpyDtoDAsync": lambda gpu: gpu.copy(1, 2, 1),
    "cuMemcpyHtoDAsync": lambda gpu: gpu.upload(1, gpu.allocate_pinned(1)),
    "cuMemcpyDtoHAsync": lambda gpu: gpu.download(gpu.allocate_pinned(1), 1),
    "cuLaunchKernelEx": lambda gpu: gpu.launch(Kernel(15), (1, 1, 1), LaunchShape(32), b""),
    "cuStreamBeginCapture": lambda gpu: gpu.begin_capture(),
    "cuStreamEndCapture": lambda gpu: gpu.end_capture(),
    "cuGraphInstantiate": lambda gpu: gpu.end_capture(),
    "cuGraphUpload": lambda gpu: gpu.end_capture(),
    "cuGraphLaunch": lambda gpu: gpu.replay(17),
    "cuEventCreate": lambda gpu: gpu.create_event(),
    "cuEventRecord": lambda gpu: gpu.record(13),
    "cuEventSynchronize": lambda gpu: gpu.wait(13),
    "cuStreamSynchronize": lambda gpu: gpu.synchronize(),
    "cuMemFreeHost": lambda gpu: gpu.free_pinned(gpu.allocate_pinned(1)),
    "cuFuncLoad": lambda gpu: gpu.load_kernel(memoryview(b"x"), "add", 0),
    "cuFuncSetAttribute": lambda gpu: gpu.load_kernel(memoryview(b"x"), "add", 99 << 10),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_that_fails_says_so_in_one_line(driver: Driver, name: str) -> None:
    gpu = cuda_device.CudaDevice()
    CALLS[name](gpu)
    driver.broken.add(name)
    error = refused(CALLS[name], gpu)
    assert error.id == "LLMC-E0722"
    assert error.message.endswith("CUDA_ERROR_ILLEGAL_ADDRESS")
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("name", "identifier", "call"),
    [
        ("cuMemAlloc", "LLMC-E0601", lambda gpu: gpu.allocate(5 << 20)),
        ("cuMemHostAlloc", "LLMC-E0601", lambda gpu: gpu.allocate_pinned(5 << 20)),
        ("cuModuleLoadData", "LLMC-E0509", lambda gpu: gpu.load_kernel(b"x", "add", 0)),
        ("cuModuleGetFunction", "LLMC-E0509", lambda gpu: gpu.load_kernel(b"x", "add", 0)),
    ],
)
def test_what_the_gpu_does_not_take(driver: Driver, name: str, identifier: str, call: Any) -> None:
    gpu = cuda_device.CudaDevice()
    driver.broken.add(name)
    assert refused(call, gpu).id == identifier


def test_all_is_given_back_once_even_by_a_gpu_that_failed(driver: Driver) -> None:
    gpu = cuda_device.CudaDevice()
    gpu.allocate(5)
    gpu.allocate_pinned(5)
    gpu.create_event()
    gpu.load_kernel(memoryview(b"x"), "add", 0)
    gpu.begin_capture()
    gpu.end_capture()
    driver.calls.clear()
    driver.broken.add("cuStreamSynchronize")
    gpu.close()
    gpu.close()
    assert driver.names() == [
        "cuCtxSetCurrent", "cuStreamSynchronize", "cuGraphExecDestroy", "cuEventDestroy",
        "cuModuleUnload", "cuMemFree", "cuMemFreeHost", "cuStreamDestroy",
    ]  # fmt: skip
