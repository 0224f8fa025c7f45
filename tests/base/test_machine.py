"""Machine queries against made-up systems, and against this one."""

import os

import pytest
from llmc.base import machine

pytestmark = pytest.mark.fast

CPUINFO = """\
processor\t: 0
model name\t: Some CPU
flags\t\t: fpu sse2 avx2 fma avx512f
bogomips\t: 5192.25

processor\t: 1
flags\t\t: fpu sse2 avx2 fma
"""


def test_features_are_those_that_all_cores_have():
    assert machine.parse_cpuinfo(CPUINFO) == {"fpu", "sse2", "avx2", "fma"}
    arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"
    assert machine.parse_cpuinfo(arm) == {"fp", "asimd", "asimddp"}
    assert machine.parse_cpuinfo("") == frozenset()


def test_missing_features(monkeypatch):
    monkeypatch.setattr(machine, "native_features", lambda: frozenset({"avx2"}))
    assert machine.missing_features(["fma", "avx2", "avx512f"]) == ["avx512f", "fma"]


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of a pretended system."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("DOT", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_container_limits_count(system, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    system(meminfo="MemTotal: 9000000 kB\nMemAvailable: 4000000 kB\n")
    assert machine.available_cores() == 8
    assert machine.available_memory() == 4000000 * 1024
    system(cgroup__cpuDOTmax="250000 100000\n")
    assert machine.available_cores() == 2
    system(cgroup__cpuDOTmax="50000 100000\n")
    assert machine.available_cores() == 1
    system(cgroup__cpuDOTmax="max 100000\n", cgroup__memoryDOTmax="max\n")
    assert machine.available_cores() == 8
    system(
        cgroup__memoryDOTmax="1000000000\n",
        cgroup__memoryDOTcurrent="700000000\n",
        cgroup__memoryDOTstat="anon 1\ninactive_file 200000000\n",
    )
    assert machine.total_memory() == 1000000000
    assert machine.available_memory() == 500000000


def test_this_machine():
    assert 1 <= machine.available_cores() <= (os.cpu_count() or 1)
    assert 0 < machine.available_memory() <= machine.total_memory()
    if machine.system() == "linux":
        assert machine.native_features()
