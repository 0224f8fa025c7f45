"""Pages are touched before they are needed, and nothing in them changes."""

import sys
from pathlib import Path

import pytest
from llmc.runtime.executors import pages
from llmc.runtime.executors.native_memory import allocate
from llmc.runtime.executors.pages import PagesAhead

pytestmark = pytest.mark.fast

MIB = 1 << 20


def resident() -> int:
    """Bytes of the process that are in memory, by the kernel's count."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def memory() -> memoryview:
    return allocate(100 * MIB, huge_pages=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can touch pages ahead")
def test_pages_behind_those_in_use_are_touched_once(memory):
    before = resident()
    ahead = PagesAhead(memory)
    ahead.reach(3 * MIB)
    ahead.wait()
    if not ahead._works:
        pytest.skip("this kernel doesn't know MADV_POPULATE_WRITE")
    touched = resident() - before
    assert pages._AHEAD - 4 * MIB < touched < pages._AHEAD + 8 * MIB
    first = ahead._thread
    ahead.reach(4 * MIB)
    assert ahead._thread is first, "there was enough ahead"
    ahead.reach(60 * MIB)
    ahead.wait()
    assert ahead._thread is not first
    ahead.reach(memory.nbytes)
    ahead.wait()
    assert ahead._ready == memory.nbytes


def test_closing_does_not_wait_for_all_of_it(memory):
    ahead = PagesAhead(memory)
    ahead.reach(1)
    ahead.close()
    assert ahead._thread is None or not ahead._thread.is_alive()


def test_what_is_in_them_stays(memory):
    memory[: 8 * MIB] = bytes(range(256)) * (8 * MIB // 256)
    ahead = PagesAhead(memory)
    ahead.reach(1)
    ahead.wait()
    assert memory[: 8 * MIB] == bytes(range(256)) * (8 * MIB // 256)
    assert not any(memory[8 * MIB : 12 * MIB])


def test_a_kernel_that_cannot_leaves_it_to_the_steps(memory, monkeypatch):
    monkeypatch.setattr(pages, "_POPULATE_WRITE", 9999)
    ahead = PagesAhead(memory)
    ahead.reach(1)
    ahead.wait()
    ahead.reach(90 * MIB)
    ahead.wait()
    assert not ahead._works
    memory[90 * MIB] = 1
