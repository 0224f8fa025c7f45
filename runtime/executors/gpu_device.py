"""What an executor of launch plans needs of a GPU: memory, copies, kernels, graphs, events.

One device with one queue, in which everything happens in the order in which it was begun. Calls
return at once, except those that say that they wait. Addresses are plain integers; host memory is
a memoryview of pinned bytes, which the device reads or writes when the queue gets there: it may be
used again once an event recorded behind the copy has been waited for.

`cuda_device.py` is this on an NVIDIA GPU; tests have one in host memory. Each call's result is
checked: E0722 if the GPU fails, which may be the failure of something begun before.
"""

from typing import NamedTuple, NewType, Protocol

Kernel = NewType("Kernel", int)
Graph = NewType("Graph", int)
Event = NewType("Event", int)
Grid = tuple[int, int, int]

ADDRESS_ALIGNMENT = 256
"""Of all memory of a device."""


class GpuProperties(NamedTuple):
    """`sm`: as in 90; `driver`: CUDA's version that it knows, as in 13020 for 13.2;
    `shared_bytes`: the most that a block may have; memory in bytes."""

    name: str
    sm: int
    multiprocessors: int
    driver: int
    shared_bytes: int
    free_memory: int
    total_memory: int


class LaunchShape(NamedTuple):
    """How a kernel is launched, beside its grid. `shared`: bytes of dynamic shared memory.
    `overlaps`: it may start before the kernel in front of it has ended; `cooperative`: all of its
    blocks must run at once."""

    threads: int
    shared: int = 0
    overlaps: bool = False
    cooperative: bool = False


class GpuDevice(Protocol):
    """Used by one thread at a time. Errors of all calls: E0722, the GPU fails."""

    @property
    def properties(self) -> GpuProperties:
        """Facts of the device; `free_memory` is that of this moment."""
        ...

    def attach(self) -> None:
        """Makes the device usable in the calling thread. Costs nothing if it is."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Device memory, aligned to `ADDRESS_ALIGNMENT`, until `close`. What it holds is
        undefined. Errors: E0601."""
        ...

    def allocate_pinned(self, nbytes: int) -> memoryview:
        """Host memory that the device reads and writes by itself, until `close`. Errors: E0601."""
        ...

    def free_pinned(self, memory: memoryview) -> None:
        """Frees what `allocate_pinned` gave, when all is done that was begun."""
        ...

    def fill(self, target: int, byte: int, nbytes: int) -> None: ...
    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Within the device."""
        ...

    def upload(self, target: int, source: memoryview) -> None:
        """From pinned memory, all of `source`."""
        ...

    def download(self, target: memoryview, source: int) -> None:
        """To pinned memory, all of `target`."""
        ...

    def load_kernel(self, cubin: memoryview, name: str, shared: int) -> Kernel:
        """The function `name` of a cubin, allowed `shared` bytes of dynamic shared memory. Errors:
        E0509, the driver refuses it."""
        ...

    def launch(self, kernel: Kernel, grid: Grid, shape: LaunchShape, parameters: bytes) -> None:
        """`parameters`: packed as the kernel expects them."""
        ...

    def begin_capture(self) -> None:
        """What follows is recorded, not done, until `end_capture`."""
        ...

    def end_capture(self) -> Graph: ...
    def replay(self, graph: Graph) -> None: ...
    def create_event(self, *, timed: bool = False) -> Event: ...
    def record(self, event: Event) -> None: ...
    def wait(self, event: Event) -> None:
        """Returns when all is done that was begun before the event was last recorded."""
        ...

    def elapsed(self, first: Event, second: Event) -> float:
        """Seconds between two timed events, both of which were waited for."""
        ...

    def synchronize(self) -> None:
        """Returns when all is done that was begun."""
        ...

    def close(self) -> None:
        """Waits, and frees everything. May be called twice."""
        ...
