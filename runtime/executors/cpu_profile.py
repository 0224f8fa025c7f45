"""When each kernel of a native step began: `llmc_profile` and `llmc_kernels` of a library.

In: a library of target `cpu` and its model. Out: for every step that runs meanwhile, the kernels in
the order in which the first thread began them, with their times.
"""

import ctypes
import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

ARGMAX, END = -1, -2
"""What begins in place of a kernel: the search for the largest logits, and nothing any more."""
_CAPACITY = 1 << 16
"""Marks of one step that there is room for: some thousand layers."""


class Traffic(NamedTuple):
    """`nbytes` for each `unit` of a step: "" (once), T, S, S1, R, or C, a position that a sequence
    sees (at most `most`, if that isn't 0). Of other units `most` limits the bytes."""

    nbytes: int
    unit: str
    most: int


class Kernel(NamedTuple):
    """A row of the library's table: the function, the module that it comes from, what it moves."""

    name: str
    scope: str
    traffic: tuple[Traffic, ...]


class _Mark(ctypes.Structure):
    """`llmc_mark` of llmc.h."""

    _fields_ = (
        ("kernel", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("ns", ctypes.c_uint64),
    )


class KernelProfiler:
    """Notes the kernels of the steps between `start` and `stop`.

    `profile(marks, capacity) -> written`; `kernels`: what the numbers of marks mean.
    """

    def __init__(self, profile: Callable[[object, int], int], kernels: tuple[Kernel, ...]) -> None:
        self._profile, self.kernels = profile, kernels
        self._marks = (_Mark * _CAPACITY)()

    def start(self) -> None:
        """From here on marks are written."""
        self._profile(self._marks, _CAPACITY)

    def stop(self) -> list[tuple[int, int]]:
        """(kernel, nanoseconds) in the order of time; no more are written."""
        written = self._profile(None, 0)
        return [(mark.kernel, mark.ns) for mark in self._marks[:written]]


def native_profiler(library: ctypes.CDLL, handle: int) -> KernelProfiler | None:
    """The profiler of a program; None if its library, of an older llmc, has no code for it."""
    try:
        profile, kernels = library.llmc_profile, library.llmc_kernels
    except AttributeError:
        return None
    profile.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    kernels.restype = ctypes.c_char_p
    rows = json.loads(kernels() or b"[]")
    table = (Kernel(name, scope, tuple(Traffic(*t) for t in terms)) for name, scope, terms in rows)
    return KernelProfiler(partial(profile, handle), tuple(table))
