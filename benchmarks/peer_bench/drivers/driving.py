"""What every driver shares: the task, the prompts, warm-up, clocks, and the answer as JSON.

A driver runs in its peer's own environment, in a process of its own, so this file needs the
standard library only. A driver defines `open_model(task) -> Driver` and calls `main(open_model)`;
everything that is timed is timed here or between the two clocks of `Timing`.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

WARMUP_PROMPT = 512
WARMUP_OUTPUT = 4
FIRST_ID, LAST_ID = 100, 40000
"""Ordinary tokens of every tokenizer here: no special ones."""


@dataclass(frozen=True)
class Task:
    """One measurement: `sequences` prompts of `prompt` ids, `output` tokens each, `repeat` times.

    `shape` has the model's geometry (`cases.Model`), for counting bytes. A cold task has no
    warm-up: it asks how long a fresh process takes to its first token.
    """

    model: str
    threads: int
    prompt: int
    output: int
    sequences: int
    repeat: int
    cold: bool
    shape: dict[str, int]
    options: dict[str, Any]

    @property
    def context(self) -> int:
        """Tokens of one sequence when it is complete."""
        return self.prompt + self.output


@dataclass(frozen=True)
class Timing:
    """Seconds from the start of a run until every sequence has its first token, and until its end.

    `prefill` is None where a peer doesn't tell.
    """

    prefill: float | None
    total: float


class Driver(Protocol):
    """A loaded model. `weight_bytes` and `cache_bytes` (a token of context) are what decode reads.

    `same_warmup`: warm up with the measured shape, since the peer compiles for shapes.
    """

    weight_bytes: int
    cache_bytes: int
    same_warmup: bool

    def generate(self, prompts: list[list[int]], output: int) -> Timing: ...


def prompts(run: int, sequences: int, length: int) -> list[list[int]]:
    """The same pseudo-random ids for every peer, and others in every run (no cached prefixes)."""
    sources = [random.Random(f"{run}/{index}") for index in range(sequences)]
    return [[source.randrange(FIRST_ID, LAST_ID) for _ in range(length)] for source in sources]


def attention_cache_bytes(shape: dict[str, int], element: int) -> int:
    """Bytes of keys and values of one token, elements of `element` bytes."""
    return 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * element


def anonymous_mb() -> float:
    """Memory that this process has for itself now, mapped files left out (Linux)."""
    with open("/proc/self/status") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if "RssAnon" in line)


def main(open_model: Callable[[Task], Driver]) -> None:
    """Carry out the task in the first argument and print the measurement."""
    task = Task(**json.loads(sys.argv[1]))
    began = time.perf_counter()
    driver = open_model(task)
    load_s = time.perf_counter() - began
    timings: list[Timing] = []
    if task.cold:
        timings.append(driver.generate(prompts(0, task.sequences, task.prompt), task.output))
        first_token_at: float | None = time.monotonic()
    else:
        first_token_at = None
        length = task.prompt if driver.same_warmup else min(task.prompt, WARMUP_PROMPT)
        driver.generate(prompts(0, task.sequences, length), min(task.output, WARMUP_OUTPUT))
        for run in range(1, task.repeat + 1):
            ids = prompts(run, task.sequences, task.prompt)
            timings.append(driver.generate(ids, task.output))
    answer = {
        "load_s": load_s,
        "prefill_s": [timing.prefill for timing in timings],
        "total_s": [timing.total for timing in timings],
        "first_token_at": first_token_at,
        "weight_bytes": driver.weight_bytes,
        "cache_bytes": driver.cache_bytes,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "anonymous_mb": anonymous_mb(),
    }
    print(json.dumps(answer), flush=True)
