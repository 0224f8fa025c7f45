"""The first NVIDIA GPU as a `GpuDevice`: the driver's own interface, through `cuda.bindings`.

Launches pass their parameters as one packed block, as the kernel's code reads them, so nothing is
converted on the way. Every call's status is looked at. `facts` asks for a GPU's properties without
making a context on it, which would take memory.
"""

import ctypes
from functools import cache
from importlib import import_module
from threading import get_ident
from typing import Any

from ...base.errors import LlmcError
from .gpu_device import Event, GpuProperties, Graph, Grid, Kernel, LaunchShape
from .native_memory import address_of

_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0
"""`CU_LAUNCH_PARAM_*` of cuda.h."""
_MOST_PARAMETER_BYTES = 32764
_SHARED_FOR_ALL = 48 << 10
"""Dynamic shared memory that a kernel may have without asking."""
_NO_TIMING = 2
"""`CU_EVENT_DISABLE_TIMING`."""
_NON_BLOCKING = 1
"""`CU_STREAM_NON_BLOCKING`: independent of the default stream."""
_REFUSED = "LLMC-E0722"


def cuda_driver() -> Any:
    """`cuda.bindings.driver`, with the driver behind it started. Errors: E0514, E0703."""
    try:
        driver = import_module("cuda.bindings.driver")
    except ImportError as error:
        raise LlmcError(
            "LLMC-E0703",
            "the triton target needs cuda-bindings",
            hint='pip install "llmc-compiler[cuda]"',
        ) from error
    try:
        status = driver.cuInit(0)[0]
    except Exception as error:  # no driver's library, by a class of another package
        raise LlmcError("LLMC-E0514", "there is no NVIDIA driver here") from error
    if status != 0:
        raise LlmcError("LLMC-E0514", f"no NVIDIA GPU can be used: {status.name}")
    return driver


def checked(result: tuple[Any, ...], what: str, identifier: str = _REFUSED) -> Any:
    """What a driver's call returned behind its status: nothing, a value or several."""
    status, *values = result
    if status != 0:
        raise LlmcError(identifier, f"{what}: {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


@cache
def _context(driver: Any) -> Any:
    """The context that all of the process shares. It is kept: making one takes a while."""
    no_context = ("the GPU gives no context", "LLMC-E0514")
    device = checked(driver.cuDeviceGet(0), *no_context)
    return checked(driver.cuDevicePrimaryCtxRetain(device), *no_context)


def free_memory() -> int:
    """Bytes that are free on the first GPU. Errors: E0514, E0703."""
    driver = cuda_driver()
    checked(driver.cuCtxSetCurrent(_context(driver)), "the GPU can't be used", "LLMC-E0514")
    asked = driver.cuMemGetInfo()
    return checked(asked, "the GPU doesn't say what is free", "LLMC-E0514")[0]


def facts(driver: Any) -> GpuProperties:
    """Of the first GPU. `free_memory`: 0, which only a context can tell. Errors: E0514."""
    asked = ("the GPU doesn't say what it is", "LLMC-E0514")
    device = checked(driver.cuDeviceGet(0), *asked)
    names = driver.CUdevice_attribute

    def attribute(name: str) -> int:
        key = getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}")
        return checked(driver.cuDeviceGetAttribute(key, device), *asked)

    major = attribute("COMPUTE_CAPABILITY_MAJOR")
    name = checked(driver.cuDeviceGetName(256, device), *asked)
    return GpuProperties(
        name=bytes(name).split(b"\0")[0].decode("utf-8", "replace"),
        sm=major * 10 + attribute("COMPUTE_CAPABILITY_MINOR"),
        multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
        driver=checked(driver.cuDriverGetVersion(), *asked),
        shared_bytes=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        free_memory=0,
        total_memory=checked(driver.cuDeviceTotalMem(device), *asked),
    )


class CudaDevice:
    """The first GPU, with a queue of its own. Errors of opening it: E0514, E0703."""

    def __init__(self) -> None:
        driver = self._driver = cuda_driver()
        self._facts = facts(driver)
        self._context = _context(driver)
        self._thread = 0
        self._shapes: dict[LaunchShape, Any] = {}
        self._modules: list[Any] = []
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._events: list[Any] = []
        self._graphs: list[Any] = []
        self._prepare_parameters()
        self.attach()
        self._stream = checked(driver.cuStreamCreate(_NON_BLOCKING), "the GPU gives no stream")
        self._open = True

    def _prepare_parameters(self) -> None:
        """`extra` of a launch: where the packed parameters lie, and how many bytes they are."""
        self._parameters = memoryview(bytearray(_MOST_PARAMETER_BYTES))
        self._parameter_bytes = ctypes.c_size_t()
        size_at = ctypes.addressof(self._parameter_bytes)
        self._extra = (ctypes.c_void_p * 5)(
            _BUFFER_POINTER, address_of(self._parameters), _BUFFER_SIZE, size_at, _END
        )
        self._extra_at = ctypes.addressof(self._extra)

    @property
    def properties(self) -> GpuProperties:
        free, _ = checked(self._driver.cuMemGetInfo(), "the GPU doesn't say what is free")
        return self._facts._replace(free_memory=free)

    def attach(self) -> None:
        thread = get_ident()
        if thread != self._thread:  # a context is a thread's own
            checked(self._driver.cuCtxSetCurrent(self._context), "the GPU can't be used")
            self._thread = thread

    def allocate(self, nbytes: int) -> int:
        address = int(
            checked(
                self._driver.cuMemAlloc(max(nbytes, 1)),
                f"the GPU has no {nbytes >> 20} MiB",
                "LLMC-E0601",
            )
        )
        self._memory.append(address)
        return address

    def allocate_pinned(self, nbytes: int) -> memoryview:
        address = int(
            checked(
                self._driver.cuMemHostAlloc(max(nbytes, 1), 0),
                f"there are no {nbytes >> 20} MiB of pinned memory",
                "LLMC-E0601",
            )
        )
        self._pinned.append(address)
        return memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")

    def free_pinned(self, memory: memoryview) -> None:
        self.synchronize()
        address = address_of(memory)
        self._pinned.remove(address)
        checked(self._driver.cuMemFreeHost(address), "pinned memory can't be freed")

    def fill(self, target: int, byte: int, nbytes: int) -> None:
        if nbytes:
            done = self._driver.cuMemsetD8Async(target, byte, nbytes, self._stream)
            checked(done, "the GPU didn't fill its memory")

    def copy(self, target: int, source: int, nbytes: int) -> None:
        done = self._driver.cuMemcpyDtoDAsync(target, source, nbytes, self._stream)
        checked(done, "a copy on the GPU failed")

    def upload(self, target: int, source: memoryview) -> None:
        at, nbytes = address_of(source), source.nbytes
        done = self._driver.cuMemcpyHtoDAsync(target, at, nbytes, self._stream)
        checked(done, "a copy to the GPU failed")

    def download(self, target: memoryview, source: int) -> None:
        at, nbytes = address_of(target), target.nbytes
        done = self._driver.cuMemcpyDtoHAsync(at, source, nbytes, self._stream)
        checked(done, "a copy from the GPU failed")

    def load_kernel(self, cubin: memoryview, name: str, shared: int) -> Kernel:
        driver = self._driver
        refused = (f"the driver (CUDA {self._facts.driver / 1000:.1f}) refuses kernel {name}",)
        module = checked(driver.cuModuleLoadData(bytes(cubin)), *refused, "LLMC-E0509")
        self._modules.append(module)
        found = driver.cuModuleGetFunction(module, name.encode())
        function = checked(found, *refused, "LLMC-E0509")
        checked(driver.cuFuncLoad(function), *refused)  # not when a graph is being recorded
        if shared > _SHARED_FOR_ALL:
            key = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            what = f"kernel {name} doesn't get {shared} bytes of shared memory"
            checked(driver.cuFuncSetAttribute(function, key, shared), what)
        return Kernel(int(function))

    def launch(self, kernel: Kernel, grid: Grid, shape: LaunchShape, parameters: bytes) -> None:
        config = self._shapes.get(shape)
        if config is None:
            config = self._configuration(shape)
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        self._parameter_bytes.value = nbytes = len(parameters)
        self._parameters[:nbytes] = parameters
        (status,) = self._driver.cuLaunchKernelEx(config, kernel, 0, self._extra_at)
        if status != 0:
            raise LlmcError(_REFUSED, f"the GPU refuses a kernel on {grid} blocks: {status.name}")

    def _configuration(self, shape: LaunchShape) -> Any:
        """What a launch of this shape says beside its grid; made once."""
        driver = self._driver
        config = self._shapes[shape] = driver.CUlaunchConfig()
        config.blockDimX, config.blockDimY, config.blockDimZ = shape.threads, 1, 1
        config.sharedMemBytes, config.hStream = shape.shared, self._stream
        names, attributes = driver.CUlaunchAttributeID, []
        if shape.overlaps:
            attribute = driver.CUlaunchAttribute()
            attribute.id = names.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            attributes.append(attribute)
        if shape.cooperative:
            attribute = driver.CUlaunchAttribute()
            attribute.id = names.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            attributes.append(attribute)
        config.attrs, config.numAttrs = attributes, len(attributes)
        return config

    def begin_capture(self) -> None:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked(self._driver.cuStreamBeginCapture(self._stream, mode), "no graph can be recorded")

    def end_capture(self) -> Graph:
        driver, what = self._driver, "a graph could not be recorded"
        recorded = checked(driver.cuStreamEndCapture(self._stream), what)
        try:
            graph = checked(driver.cuGraphInstantiate(recorded, 0), what)
        finally:
            driver.cuGraphDestroy(recorded)
        self._graphs.append(graph)
        checked(driver.cuGraphUpload(graph, self._stream), what)
        return Graph(int(graph))

    def replay(self, graph: Graph) -> None:
        status = self._driver.cuGraphLaunch(graph, self._stream)[0]
        if status != 0:
            raise LlmcError(_REFUSED, f"the GPU refuses a graph: {status.name}")

    def create_event(self, *, timed: bool = False) -> Event:
        made = self._driver.cuEventCreate(0 if timed else _NO_TIMING)
        event = checked(made, "the GPU gives no event")
        self._events.append(event)
        return Event(int(event))

    def record(self, event: Event) -> None:
        checked(self._driver.cuEventRecord(event, self._stream), "an event can't be recorded")

    def wait(self, event: Event) -> None:
        checked(self._driver.cuEventSynchronize(event), "the GPU failed")

    def elapsed(self, first: Event, second: Event) -> float:
        return checked(self._driver.cuEventElapsedTime(first, second), "no time is known") / 1e3

    def synchronize(self) -> None:
        checked(self._driver.cuStreamSynchronize(self._stream), "the GPU failed")

    def close(self) -> None:
        if not self._open:
            return
        self._open, driver = False, self._driver
        self._thread = 0
        self.attach()
        driver.cuStreamSynchronize(self._stream)  # what failed has been told, or nobody asks
        releases = (
            (driver.cuGraphExecDestroy, self._graphs),
            (driver.cuEventDestroy, self._events),
            (driver.cuModuleUnload, self._modules),
            (driver.cuMemFree, self._memory),
            (driver.cuMemFreeHost, self._pinned),
            (driver.cuStreamDestroy, [self._stream]),
        )
        for release, things in releases:
            for thing in things:
                release(thing)
            things.clear()
