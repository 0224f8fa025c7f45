"""Requests that arrive while others run, and when their tokens came; for every peer the same.

A driver runs in its peer's own environment, so this file needs the standard library only. A driver
defines `open_session(task) -> Session` and calls `main(open_session)`.

Open loop: requests come at Poisson-distributed moments, whether or not earlier ones are done, and
each one's clock starts at its moment even if the driver is busy with a step. Closed loop: so many
requests are always under way, and the next one comes when one is done.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

FIRST_ID, LAST_ID = 100, 40000
"""Ordinary tokens of every tokenizer here: no special ones."""
WARMUP = 8


@dataclass(frozen=True)
class Load:
    """`requests` with prompts and outputs of random lengths. Exactly one of `rate` (requests per
    second) and `streams` (always under way) is not zero."""

    seed: int
    requests: int
    rate: float = 0.0
    streams: int = 0
    prompt: tuple[int, int] = (32, 256)
    output: tuple[int, int] = (16, 96)

    @property
    def longest(self) -> int:
        """Most tokens of one sequence."""
        return self.prompt[1] + self.output[1]


@dataclass(frozen=True)
class Planned:
    """One request: seconds after the start (0 in a closed loop), prompt, tokens to make."""

    at: float
    prompt: list[int]
    output: int


@dataclass
class Record:
    """What became of a request: when it arrived and when each token came, by one clock."""

    arrived: float
    tokens: list[float] = field(default_factory=list)


class Session(Protocol):
    """A loaded model that runs many requests side by side."""

    def add(self, key: int, prompt: list[int], output: int) -> None:
        """Queue a request that makes exactly `output` tokens."""
        ...

    def step(self) -> list[tuple[int, int]]:
        """Compute once; of each request that has news its key and how many tokens it has now."""
        ...


def plan(load: Load) -> list[Planned]:
    """The same requests for everybody, in order of arrival."""
    source = random.Random(f"load/{load.seed}")
    at, planned = 0.0, []
    for _ in range(load.requests):
        if load.rate:
            at += source.expovariate(load.rate)
        prompt = [source.randrange(FIRST_ID, LAST_ID) for _ in range(source.randint(*load.prompt))]
        planned.append(Planned(at, prompt, source.randint(*load.output)))
    return planned


def run(
    session: Session,
    planned: Sequence[Planned],
    streams: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Record]:
    """Carry out a plan: by its moments if `streams` is 0, else with so many under way."""
    records: list[Record] = []
    running: set[int] = set()
    began = clock()

    def is_due() -> bool:
        if len(records) == len(planned):
            return False
        if streams:
            return len(running) < streams
        return began + planned[len(records)].at <= clock()

    while running or len(records) < len(planned):
        while is_due():
            key = len(records)
            one = planned[key]
            records.append(Record(clock() if streams else began + one.at))
            running.add(key)
            session.add(key, one.prompt, one.output)
        if not running:
            sleep(max(0.0, began + planned[len(records)].at - clock()))
            continue
        for key, count in session.step():
            tokens = records[key].tokens
            tokens += [clock()] * (count - len(tokens))
            if count == planned[key].output:
                running.discard(key)
    return records


def main(open_session: Callable[[dict[str, Any], Load], Session]) -> None:
    """Carry out the task in the first argument, after a warm-up, and print the records."""
    task = json.loads(sys.argv[1])
    load = Load(**task["load"])
    session = open_session(task, load)
    warmup = Load(load.seed + 1_000_000, WARMUP, streams=WARMUP, output=(4, 16))
    run(session, plan(warmup), WARMUP)
    used = resource.getrusage(resource.RUSAGE_SELF)
    records = run(session, plan(load), load.streams)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu = spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"records": [asdict(record) for record in records], "cpu_s": cpu}))
