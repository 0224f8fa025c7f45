"""Compiles kernels for tests and calls them: a few lines of C++ in, a ctypes library out.

    library = build('''
        #include "norm.h"
        struct Args { int rows, n; const float* x; float* y; };
        static void body(llmc::Team& team, void* p) {
          Args& a = *(Args*)p;
          llmc::rms_norm(team, a.rows, a.n, a.x, a.n, nullptr, 1e-5f, a.y, a.n);
        }
        EXPORT void norm(int threads, Args a) { run_team(threads, body, &a); }
    ''', level)

`EXPORT` makes a function visible; `run_team(threads, body, &args)` runs `body(team, &args)` on a
team that lives for the call. Libraries are cached by their source, for all workers of a test run
(shared_work.py), so several tests may build the same text. A level of another processor runs in an
emulator (emulator.py), its functions called in the same way; x86 levels that this machine lacks
instructions for run with those emulated (emulated_instructions.py).
"""

import ctypes
import hashlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_instructions import INSTRUCTIONS
from emulator import CPUS, MISSING, EmulatedLibrary, emulated_machine, remember
from llmc import artifact
from llmc.base.machine import machine, native_features
from llmc.codegen.cpu.toolchain import LEVELS
from shared_work import build_once

INTERFACE = (Path(artifact.__file__).parent,)
"""Where llmc.h is."""

PRELUDE = """
#include "amx_permission.h"
#include "simd.h"
#include "team.h"
#define EXPORT extern "C" __attribute__((visibility("default")))
[[maybe_unused]] static void run_team(int threads, llmc::TeamFn body, void* args) {
  if (!llmc::request_instructions()) abort();
  llmc::TeamPool* pool = llmc::team_create(threads, -1);
  if (!pool) abort();
  llmc::team_run(pool, body, args);
  llmc::team_destroy(pool);
}
"""


def runnable_levels() -> list[str]:
    """The names of all levels that this machine can run, for `pytest.mark.parametrize`."""
    return [
        level.name
        for level in LEVELS.values()
        if level.machine == machine() and level.features <= native_features()
    ]


def foreign_levels() -> list[Any]:
    """Levels of another processor, as parameters of a test that is skipped without an emulator."""
    others = [level.name for level in LEVELS.values() if level.machine != machine()]
    skip = pytest.mark.skipif(emulated_machine() is None, reason=MISSING)
    return [pytest.param(name, marks=skip) for name in others if name in CPUS]


def _emulates_instructions(level: str) -> bool:
    """Whether `level` is one that this machine only runs with emulated instructions."""
    here = runnable_levels()
    return level not in here and level in INSTRUCTIONS and INSTRUCTIONS[level][0] in here


def emulated_levels() -> list[Any]:
    """All levels that run here with emulated instructions or in an emulator."""
    return [*filter(_emulates_instructions, LEVELS), *foreign_levels()]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="llmc-kernels-")  # removed when the interpreter ends


@cache
def build(source: str, level: str, define: str = "") -> Any:
    """Compile `source` for `level` and load it; `define` is a macro set before all else."""
    text = (f"#define {define}\n" if define else "") + PRELUDE + source
    if _emulates_instructions(level):
        level, instructions = INSTRUCTIONS[level]
        text = instructions + text
    digest = hashlib.sha256(f"{level}\n{text}".encode()).hexdigest()[:16]
    path = Path(_folder().name) / f"{digest}.so"
    if build_once(text, level, path, extra_include=INTERFACE).machine != machine():
        return EmulatedLibrary(path, CPUS[level])
    return ctypes.CDLL(str(path))


def pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    """The address of an array's first element; null for None."""
    if array is not None:
        remember(array)
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def aligned(shape: tuple[int, ...] | int, dtype: type | np.dtype, fill: int = 0xAA) -> np.ndarray:
    """A 64-byte aligned array whose bytes are all `fill` (0xAA: poison, not a plausible value)."""
    dims = (shape,) if isinstance(shape, int) else shape
    size = int(np.prod(dims)) * np.dtype(dtype).itemsize
    raw = np.full(size + 64, fill, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(dims)


def aligned_copy(values: np.ndarray) -> np.ndarray:
    """A 64-byte aligned, contiguous copy."""
    out = aligned(values.shape, values.dtype)
    out[...] = values
    return out
