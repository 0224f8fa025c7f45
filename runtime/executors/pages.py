"""Pages of the cache made ready before a step needs them.

The cache takes memory only where blocks are in use, and the first touch of a huge page takes
milliseconds (the kernel clears two megabytes, and a virtual machine may have to find them): as long
as a decoding step. So a thread touches the pages behind the highest block in use, one now and then,
while steps go on.
"""

import ctypes
import sys
from threading import Event, Thread

from .native_memory import address_of

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, Linux 5.14: touches pages without changing what is in them."""
_PIECE = 2 << 20
"""Bytes at a time: a huge page. Steps that touch a page themselves wait for no more than this."""
_AHEAD = 32 << 20
_PAUSE = 0.02
"""Seconds between two pieces: the thread takes a core from the program for one of them, not for
several steps. 100 MB/s is more than prompts fill."""


class PagesAhead:
    """Keeps bytes ready behind those in use of one mapping. Elsewhere than on Linux it does
    nothing: steps touch the pages."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._ready = 0
        self._thread: Thread | None = None
        self._works = sys.platform == "linux"
        self._closing = Event()

    def reach(self, end: int) -> None:
        """Says that bytes up to `end` are in use. Costs nothing but every few megabytes."""
        if end + _AHEAD // 2 > self._ready and self._works:
            goal = min(end + _AHEAD, self._memory.nbytes)
            busy = self._thread is not None and self._thread.is_alive()
            if goal > self._ready and not busy:
                begin, self._ready = max(self._ready, end), goal
                self._thread = Thread(
                    target=self._touch, args=(begin, goal), name="llmc-pages", daemon=True
                )
                self._thread.start()

    def _touch(self, begin: int, end: int) -> None:
        madvise = ctypes.CDLL(None).madvise  # other threads run meanwhile
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        base = address_of(self._memory)
        for offset in range(begin // _PIECE * _PIECE, end, _PIECE):
            size = min(_PIECE, self._memory.nbytes - offset)
            if madvise(base + offset, size, _POPULATE_WRITE):
                self._works = False  # a kernel that can't, or no memory: steps will find out
                return
            if self._closing.wait(_PAUSE):
                return

    def close(self) -> None:
        """Ends the thread, at most after a piece: before the mapping goes."""
        self._closing.set()
        self.wait()

    def wait(self) -> None:
        """Returns when all that was asked for has been touched."""
        if self._thread is not None:
            self._thread.join()
