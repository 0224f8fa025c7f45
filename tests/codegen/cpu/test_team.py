"""The thread team: all run, barriers separate phases, oversubscription and idling are cheap."""

import ctypes
import os
import time

import numpy as np
import pytest
from kernel_harness import build, pointer

SOURCE = """
using namespace llmc;
// Phase i: every thread writes its cell; after the barrier it checks that all cells say i.
struct Phases { int rounds; int* cells; int* errors; };
static void phases(Team& team, void* p) {
  Phases& a = *(Phases*)p;
  for (int i = 1; i <= a.rounds; i++) {
    a.cells[team.id * 16] = i;
    team.barrier();
    for (int j = 0; j < team.size; j++)
      if (a.cells[j * 16] != i) __atomic_fetch_add(a.errors, 1, __ATOMIC_RELAXED);
    team.barrier();
  }
}
EXPORT void* create(int threads, int spin) { return team_create(threads, spin); }
EXPORT void destroy(void* pool) { team_destroy((TeamPool*)pool); }
EXPORT void run_phases(void* pool, int rounds, int* cells, int* errors) {
  Phases a{rounds, cells, errors};
  team_run((TeamPool*)pool, phases, &a);
}

struct Ranges { int count; int* owner; };
static void ranges(Team& team, void* p) {
  Ranges& a = *(Ranges*)p;
  Range r = team_range(team, a.count);
  for (int i = r.begin; i < r.end; i++) a.owner[i] += 1 + team.id;
  for (size_t i = 0; i < kScratchBytes; i++) team.scratch[i] = (char)team.id;
  team.barrier();
  for (size_t i = 0; i < kScratchBytes; i++)
    if (team.scratch[i] != (char)team.id) a.owner[0] = -1;
}
EXPORT void run_ranges(void* pool, int count, int* owner) {
  Ranges a{count, owner};
  team_run((TeamPool*)pool, ranges, &a);
}
"""


def library(define: str = "") -> ctypes.CDLL:
    lib = build(SOURCE, "portable", define)
    lib.create.restype = ctypes.c_void_p
    lib.destroy.argtypes = [ctypes.c_void_p]
    lib.run_phases.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    lib.run_ranges.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    return lib


def phase_errors(lib: ctypes.CDLL, pool: int, threads: int, rounds: int) -> int:
    cells = np.full(16 * threads, -1, np.int32)
    errors = np.zeros(1, np.int32)
    lib.run_phases(pool, rounds, pointer(cells), pointer(errors))
    assert (cells[::16] == rounds).all(), "every thread ran every round"
    return int(errors[0])


# Without futexes the team sleeps on a condition variable, as on systems other than Linux.
@pytest.mark.parametrize("define", ["", "LLMC_NO_FUTEX"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("spin", [0, 10, -1])
def test_barriers_separate_phases(threads: int, spin: int, define: str):
    lib = library(define)
    pool = lib.create(threads, spin)
    assert pool
    for _ in range(20):
        assert phase_errors(lib, pool, threads, 10) == 0
    lib.destroy(pool)


def test_more_threads_than_cores_do_not_collapse():
    # A pure spin barrier needs a scheduler tick (milliseconds) for every thread at every barrier
    # here: 8 threads x 2000 barriers would take minutes. The bound is loose since the machine may
    # be busy.
    lib = library()
    threads = 4 * len(os.sched_getaffinity(0))
    pool = lib.create(threads, -1)
    start = time.perf_counter()
    assert phase_errors(lib, pool, threads, 1000) == 0
    seconds = time.perf_counter() - start
    lib.destroy(pool)
    assert seconds < 10


def test_idle_workers_sleep():
    lib = library()
    pool = lib.create(2, -1)
    phase_errors(lib, pool, 2, 10)
    time.sleep(0.05)  # longer than any spin
    before = time.process_time()
    time.sleep(0.5)
    used = time.process_time() - before
    lib.destroy(pool)
    assert used < 0.1, "a spinning worker would have used half a second"


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_ranges_cover_everything_once_and_scratch_is_private(threads: int, count: int):
    lib = library()
    pool = lib.create(threads, -1)
    owner = np.zeros(count + 1, np.int32)
    lib.run_ranges(pool, count, pointer(owner[1:]))
    lib.destroy(pool)
    shares = np.bincount(owner[1:], minlength=threads + 1)[1:]
    assert shares.sum() == count
    assert len(shares) == threads
    assert shares.max() - shares.min() <= 1
    assert (np.diff(owner[1:]) >= 0).all(), "contiguous, in order of the threads"


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_impossible_sizes_are_refused(threads: int):
    assert not library().create(threads, -1)


def test_destroying_nothing_is_allowed():
    library().destroy(None)
