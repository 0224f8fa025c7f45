"""Weights from the mapped file to the GPU, in large pieces through pinned memory.

Threads fill pieces (where pages come from the disk) while the GPU takes others, and whoever drives
it does something else between two of them: loading kernels.
"""

import ctypes
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from .gpu_device import GpuDevice
from .native_memory import address_of

PIECE = 16 << 20
_PIECES = 4
"""In pinned memory at once."""
_THREADS = 3


def upload(gpu: GpuDevice, target: int, source: memoryview, piece: int = PIECE) -> Generator[None]:
    """Copies `source` to address `target`; stops after each piece that was begun. The copy is done
    when the generator is exhausted. One that isn't must be closed: threads still fill pieces.

    `source` is any contiguous memory, such as a mapped file. Errors: E0601, E0722.
    """
    starts = range(0, source.nbytes, piece)
    count = min(_PIECES, len(starts))
    if not count:
        return
    pinned = gpu.allocate_pinned(count * min(piece, source.nbytes))
    size = pinned.nbytes // count
    places = [pinned[i * size : (i + 1) * size] for i in range(count)]
    free = [gpu.create_event() for _ in places]
    filling: deque[tuple[int, memoryview, Future[None]]] = deque()
    with ThreadPoolExecutor(_THREADS, "llmc-upload") as pool:

        def fill(number: int) -> None:
            part = source[starts[number] : starts[number] + piece]
            place = places[number % count][: part.nbytes]
            filling.append((number, place, pool.submit(_copy, place, part)))

        for number in range(count):
            fill(number)
        while filling:
            number, place, filled = filling.popleft()
            filled.result()
            gpu.upload(target + starts[number], place)
            gpu.record(free[number % count])
            yield
            if number + count < len(starts):
                gpu.wait(free[number % count])
                fill(number + count)
    gpu.free_pinned(pinned)


def _copy(target: memoryview, source: memoryview) -> None:
    """By a call that lets other threads run meanwhile."""
    ctypes.memmove(address_of(target), address_of(source), source.nbytes)
