"""How much of the machine others take while something is measured, and waiting until they don't.

In: Linux's counters of processor time. On other systems nothing is known and nothing is waited for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

ALLOWED = 0.05
"""Share of the processors that others may take before a measurement counts as disturbed."""
_STAT = Path("/proc/stat")
_PAUSE = 1.0
_IDLE_FIELDS = (3, 4)
_COUNTED = 8
"""user, nice, system, idle, iowait, irq, softirq, steal; guests are part of the first two."""


def busy_seconds() -> float:
    """Processor seconds that were used since the machine started, the hypervisor's share too."""
    try:
        fields = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0
    used = sum(v for i, v in enumerate(fields[:_COUNTED]) if i not in _IDLE_FIELDS)
    return used / os.sysconf("SC_CLK_TCK")


def others_share(busy: float, own: float, seconds: float) -> float:
    """Share of all processors taken by others, of busy and own processor seconds in `seconds`."""
    capacity = max(seconds, 1e-9) * (os.cpu_count() or 1)
    return min(1.0, max(0.0, busy - own) / capacity)


def wait_for_calm(patience: float) -> None:
    """Return when others take next to nothing for a second, or after `patience` seconds."""
    began = time.monotonic()
    while time.monotonic() - began < patience:
        before, start = busy_seconds(), time.monotonic()
        time.sleep(_PAUSE)
        share = others_share(busy_seconds() - before, 0.0, time.monotonic() - start)
        if share <= ALLOWED:
            return
