"""What this machine is: CPU features, usable cores, memory. Pure queries, nothing is changed.

Feature names are those of Linux's /proc/cpuinfo ("avx2", "avx512_vnni", "asimddp"), on every
system; the kernel lists there only what it also saves across context switches, so a name in the
set may be used. Sizes are bytes. Container limits (cgroup v2 and v1) count as the machine's.
"""

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroup v1 says "no limit" with a huge number

# sysctl names on macOS where they differ from Linux's after lower-casing.
_MACOS_NAMES = {
    "avx1.0": "avx",
    "advsimd": "asimd",
    "feat_dotprod": "asimddp",
    "feat_i8mm": "i8mm",
    "feat_bf16": "bf16",
}


def system() -> str:
    """ "linux", "macos", or what Python calls another one."""
    return {"darwin": "macos"}.get(sys.platform, sys.platform)


def machine() -> str:
    """The instruction set: "x86_64", "aarch64", …"""
    name = os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def native_features() -> frozenset[str]:
    """Names of the CPU features that code may use here; empty where they can't be found out."""
    if system() == "linux":
        return parse_cpuinfo(_read(_CPUINFO))
    if system() == "macos":
        return _macos_features()
    return frozenset()


def missing_features(required: Iterable[str]) -> list[str]:
    """Those of `required` that this CPU lacks, sorted."""
    return sorted(set(required) - native_features())


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Features that every processor in a /proc/cpuinfo has (cores may differ on Arm)."""
    sets = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            sets.append(frozenset(value.split()))
    return frozenset.intersection(*sets) if sets else frozenset()


def _macos_features() -> frozenset[str]:
    import subprocess

    names: set[str] = set()
    keys = ["machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional"]
    for key in keys:
        done = subprocess.run(
            ["/usr/sbin/sysctl", key], capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            name, _, value = line.partition(": ")
            if name.startswith("hw.optional"):
                names |= {name.split(".", 2)[2].removeprefix("arm.")} if value == "1" else set()
            else:
                names |= set(value.split())
    lowered = {name.lower() for name in names}
    return frozenset(lowered | {_MACOS_NAMES[n] for n in lowered if n in _MACOS_NAMES})


def available_cores() -> int:
    """Cores this process may use: its affinity, and the CPU quota of its container."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, min(cores, int(quota))) if quota else max(1, cores)


def _cpu_quota() -> float | None:
    """Cores' worth of time that the container may use, or None if there is no limit."""
    v2 = _read(_CGROUP / "cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    v1 = _read(_CGROUP / "cpu/cpu.cfs_quota_us").strip()
    if v1 and int(v1) > 0:
        return int(v1) / int(_read(_CGROUP / "cpu/cpu.cfs_period_us"))
    return None


def total_memory() -> int:
    """Bytes of memory that the machine, or the container, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    return min(physical, limit) if limit is not None else physical


def available_memory() -> int:
    """Bytes that can be taken into use now without swapping; half of all where nothing says."""
    free = total_memory() // 2
    for line in _read(_MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _cgroup_limit()
    if limit is not None:
        free = min(free, max(0, limit - _cgroup_usage()))
    return free


def _cgroup_limit() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(_CGROUP / name).strip()
        if text.isdigit() and int(text) < _UNLIMITED:
            return int(text)
    return None


def _cgroup_usage() -> int:
    """Bytes the container uses, without the file cache, which gives way."""
    for folder, usage in (("", "memory.current"), ("memory", "memory/memory.usage_in_bytes")):
        text = _read(_CGROUP / usage).strip()
        if text.isdigit():
            stat = dict(s.split() for s in _read(_CGROUP / folder / "memory.stat").splitlines())
            return max(0, int(text) - int(stat.get("inactive_file", 0)))
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
