"""Measurements that others disturb are made again, and the least disturbed one counts."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TypeVar

from llmc.benchmarks.peer_bench.disturbance import (
    ALLOWED,
    busy_seconds,
    others_share,
    wait_for_calm,
)

from .options import Options

_TRIES = 3

Found = TypeVar("Found")


def measured(options: Options, what: str, measure: Callable[[], Found]) -> Found:
    """What `measure` returns; its processes must have ended by then.

    With patience, others are waited for, and a disturbed measurement is made again, twice at most.
    """
    tries: list[tuple[float, Found]] = []
    for _ in range(_TRIES if options.patience else 1):
        if options.patience:
            wait_for_calm(options.patience)
        busy, own, began = busy_seconds(), _own_seconds(), time.monotonic()
        found = measure()
        spent = _own_seconds() - own
        share = others_share(busy_seconds() - busy, spent, time.monotonic() - began)
        options.say(f"{what} (others took {share:.0%} of the processors)")
        tries.append((share, found))
        if share <= ALLOWED:
            break
    share, found = min(tries, key=lambda one: one[0])
    options.disturbances.append(share)
    return found


def note(options: Options) -> str:
    """How disturbed the measurements were that count."""
    shares = options.disturbances
    over = sum(share > ALLOWED for share in shares)
    most = max(shares, default=0.0)
    return f"{over} of {len(shares)} measurements disturbed by others; at most {most:.0%} taken"


def _own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
