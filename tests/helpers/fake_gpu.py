"""A `GpuDevice` in host memory, as unfriendly as a real one may be.

Memory is poisoned when it is given out. What is begun waits in a queue and is done late: when
somebody waits for it, or at a moment that the seed chooses. So an upload reads pinned memory when
the queue gets there, and what a download will write is poison until then. Kernels are Python
callables; every address that they touch must lie within an allocation.
"""

import random
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np
from llmc.base.errors import LlmcError
from llmc.runtime.executors.gpu_device import (
    Event,
    GpuProperties,
    Graph,
    Grid,
    Kernel,
    LaunchShape,
)

POISON = 0xA5
ALIGNMENT = 256
CODES = {"ptr": "Q", "i32": "i", "i64": "q", "f32": "f"}
Action = Callable[[], None]


@dataclass(frozen=True)
class FakeLaunch:
    """What a kernel's callable is given. `args`: its parameters, scratch pointers left out."""

    gpu: "FakeGpu"
    grid: Grid
    shape: LaunchShape
    args: tuple[Any, ...]
    scratch: tuple[int, int]

    def array(self, address: int, dtype: Any, *shape: int) -> np.ndarray:
        """Device memory as an array, which may be written."""
        return self.gpu.array(address, dtype, *shape)


@dataclass(frozen=True)
class FakeKernel:
    """A kernel: the types of its parameters (`ptr`, `i32`, `i64`, `f32`), and what it does."""

    types: tuple[str, ...]
    run: Callable[[FakeLaunch], None]

    @property
    def layout(self) -> struct.Struct:
        """Of the packed parameters, the two scratch pointers included."""
        return struct.Struct("@" + "".join(CODES[t] for t in (*self.types, "ptr", "ptr")))


Bind = Callable[[bytes, str], FakeKernel]
"""The kernel that a cubin and a function's name stand for; KeyError if there is none."""


def by_name(kernels: Mapping[str, FakeKernel]) -> Bind:
    """Of kernels whose names differ: the cubin doesn't matter."""
    return lambda cubin, name: kernels[name]


@dataclass
class Allocation:
    """`data`: exactly the bytes that were asked for."""

    owner: np.ndarray
    data: np.ndarray
    address: int


@dataclass
class Done:
    """How often what was begun, and how many bytes were copied."""

    calls: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)


class FakeGpu:
    """A GPU whose kernels are those of `bind`. `seed`: of the delays; None: as late as can be.

    `broken`: names of methods that fail from now on, as a GPU does. `launches`: grid and name of
    every kernel that was run, in order. `done`: counts of calls.
    """

    def __init__(
        self,
        bind: Bind | Mapping[str, FakeKernel],
        *,
        seed: int | None = None,
        facts: GpuProperties | None = None,
    ) -> None:
        self._bind = by_name(bind) if isinstance(bind, Mapping) else bind
        self._random = random.Random(seed) if seed is not None else None
        self.facts = facts or GpuProperties("fake", 90, 4, 13000, 227 << 10, 1 << 30, 1 << 30)
        self.broken: set[str] = set()
        self.done = Done()
        self.launches: list[tuple[str, Grid]] = []
        self._kernels: list[tuple[FakeKernel, str, int]] = []
        self._memory: list[Allocation] = []
        self._pinned: list[np.ndarray] = []
        self._queue: list[Action] = []
        self._finished = 0
        self._events: list[int] = []
        self._graphs: list[list[Action]] = []
        self._capture: list[Action] | None = None
        self._thread = 0
        self.closed = False

    # ---- memory

    @property
    def properties(self) -> GpuProperties:
        used = sum(len(allocation.data) for allocation in self._memory)
        return self.facts._replace(free_memory=self.facts.free_memory - used)

    def attach(self) -> None:
        self._thread = get_ident()

    def allocate(self, nbytes: int) -> int:
        self._enter("allocate", capturing=False)
        if nbytes > self.properties.free_memory:
            raise LlmcError("LLMC-E0601", f"the GPU has no {nbytes >> 20} MiB")
        owner = np.full(nbytes + 3 * ALIGNMENT, POISON, np.uint8)
        begin = -owner.ctypes.data % ALIGNMENT + ALIGNMENT
        data = owner[begin : begin + nbytes]
        address = owner.ctypes.data + begin
        self._memory.append(Allocation(owner, data, address))
        self._memory.sort(key=lambda a: a.address)
        return address

    def allocate_pinned(self, nbytes: int) -> memoryview:
        self._enter("allocate_pinned", capturing=False)
        self._pinned.append(np.full(nbytes, POISON, np.uint8))
        return self._pinned[-1].data

    def free_pinned(self, memory: memoryview) -> None:
        self._enter("free_pinned", capturing=False)
        self._run(self._finished + len(self._queue))
        address = np.frombuffer(memory, np.uint8).ctypes.data
        self._pinned = [p for p in self._pinned if p.ctypes.data != address]

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """Device memory; an AssertionError if it isn't all within one allocation."""
        at = bisect_right(self._memory, address, key=lambda a: a.address) - 1
        assert at >= 0, f"{address:#x} is before all memory"
        found = self._memory[at]
        offset = address - found.address
        assert nbytes >= 0
        assert offset + nbytes <= len(found.data), (
            f"{nbytes} bytes at offset {offset} leave an allocation of {len(found.data)}"
        )
        return found.data[offset : offset + nbytes]

    def array(self, address: int, dtype: Any, *shape: int) -> np.ndarray:
        """Device memory as an array."""
        count = int(np.prod(shape, dtype=np.int64))
        return self.bytes_at(address, count * np.dtype(dtype).itemsize).view(dtype).reshape(shape)

    # ---- what is begun

    def _enter(self, name: str, *, capturing: bool = True) -> None:
        assert not self.closed, f"{name} after close"
        assert self._thread == get_ident(), f"{name} in a thread that isn't attached"
        assert capturing or self._capture is None, f"{name} while a graph is recorded"
        self.done.calls[name] += 1
        if name in self.broken:
            raise LlmcError("LLMC-E0722", f"the GPU failed: {name}")

    def _begin(self, action: Action) -> None:
        if self._capture is not None:
            self._capture.append(action)
            return
        self._queue.append(action)
        if self._random is not None and self._random.random() < 0.3:
            self._run(self._finished + self._random.randint(0, len(self._queue)))

    def _run(self, until: int) -> None:
        """Does what is queued, up to a count of all that was ever begun."""
        while self._queue and self._finished < until:
            self._finished += 1
            self._queue.pop(0)()

    def fill(self, target: int, byte: int, nbytes: int) -> None:
        self._enter("fill")
        data = self.bytes_at(target, nbytes)
        self._begin(lambda: data.fill(byte))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._enter("copy")
        to, origin = self.bytes_at(target, nbytes), self.bytes_at(source, nbytes)
        assert abs(target - source) >= nbytes, "a copy onto itself"
        self.done.nbytes["copy"] += nbytes

        def action() -> None:
            to[:] = origin

        self._begin(action)

    def upload(self, target: int, source: memoryview) -> None:
        self._enter("upload")
        data, host = self.bytes_at(target, source.nbytes), self._host(source)
        self.done.nbytes["upload"] += source.nbytes

        def action() -> None:
            data[:] = host

        self._begin(action)

    def download(self, target: memoryview, source: int) -> None:
        self._enter("download", capturing=False)
        data, host = self.bytes_at(source, target.nbytes), self._host(target)
        self.done.nbytes["download"] += target.nbytes
        host.fill(POISON)

        def action() -> None:
            host[:] = data

        self._begin(action)

    def _host(self, view: memoryview) -> np.ndarray:
        array = np.frombuffer(view, np.uint8)
        begin, end = array.ctypes.data, array.ctypes.data + array.nbytes
        homes = [(p.ctypes.data, p.ctypes.data + p.nbytes) for p in self._pinned]
        assert any(low <= begin and end <= high for low, high in homes), "memory isn't pinned"
        return array

    # ---- kernels

    def load_kernel(self, cubin: memoryview, name: str, shared: int) -> Kernel:
        self._enter("load_kernel", capturing=False)
        assert len(cubin) > 0
        assert shared <= self.facts.shared_bytes
        try:
            kernel = self._bind(bytes(cubin), name)
        except KeyError as error:
            raise LlmcError("LLMC-E0509", f"the driver refuses kernel {name}") from error
        self._kernels.append((kernel, name, shared))
        return Kernel(len(self._kernels))

    def launch(self, kernel: Kernel, grid: Grid, shape: LaunchShape, parameters: bytes) -> None:
        self._enter("launch")
        bound, name, shared = self._kernels[kernel - 1]
        assert min(grid) > 0, f"{name} on {grid} blocks"
        assert max(grid[1:]) < 1 << 16, f"{name} on {grid} blocks"
        assert shape.threads % 32 == 0
        assert 0 < shape.threads <= 1024
        assert shape.shared <= max(shared, 48 << 10)
        assert len(parameters) == bound.layout.size, f"parameters of {name}"
        *args, first, second = bound.layout.unpack(parameters)
        for address, kind in zip(args, bound.types, strict=True):
            if kind == "ptr":
                self.bytes_at(address, 0)
        launch = FakeLaunch(self, grid, shape, tuple(args), (first, second))

        def action() -> None:
            self.launches.append((name, grid))
            bound.run(launch)

        self._begin(action)

    # ---- graphs, events

    def begin_capture(self) -> None:
        self._enter("begin_capture", capturing=False)
        self._capture = []

    def end_capture(self) -> Graph:
        assert self._capture is not None, "no graph is recorded"
        recorded, self._capture = self._capture, None
        self._enter("end_capture")
        self._graphs.append(recorded)
        return Graph(len(self._graphs))

    def replay(self, graph: Graph) -> None:
        self._enter("replay", capturing=False)
        for action in self._graphs[graph - 1]:
            self._begin(action)

    def create_event(self, *, timed: bool = False) -> Event:
        self._enter("create_event", capturing=False)
        self._events.append(0)
        return Event(len(self._events))

    def record(self, event: Event) -> None:
        self._enter("record", capturing=False)
        self._events[event - 1] = self._finished + len(self._queue)

    def wait(self, event: Event) -> None:
        self._enter("wait", capturing=False)
        self._run(self._events[event - 1])

    def elapsed(self, first: Event, second: Event) -> float:
        """A microsecond for each thing that was done in between."""
        self._enter("elapsed", capturing=False)
        assert max(self._events[e - 1] for e in (first, second)) <= self._finished, "not waited for"
        return (self._events[second - 1] - self._events[first - 1]) * 1e-6

    def synchronize(self) -> None:
        self._enter("synchronize", capturing=False)
        self._run(self._finished + len(self._queue))

    def close(self) -> None:
        self.done.calls["close"] += 1
        self.closed = True
        self._queue.clear()
