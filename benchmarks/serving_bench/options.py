"""What was asked of the benchmark, for every case to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """`rounds`: how often each measurement is made, in turns; medians count. `short`: less of
    everything, to see whether it works. `minutes`, `requests`, `seed`: of the soak. `rates`,
    `streams`, `pythons`, `llama_server`: of the comparison. `say` is told what is being done;
    `disturbances` has, for each measurement that counts, the share of the processors that others
    took."""

    artifact: str
    rounds: int = 3
    short: bool = False
    minutes: float = 10
    requests: int = 1000
    seed: int = 1
    rates: Sequence[float] = (2.0, 4.0)
    streams: Sequence[int] = (8, 16)
    peers: Sequence[str] = ()
    pythons: Mapping[str, Path] = field(default_factory=dict)
    llama_server: Path | None = None
    threads: int = 1
    patience: float = 60
    say: Callable[[str], None] = print
    disturbances: list[float] = field(default_factory=list)
