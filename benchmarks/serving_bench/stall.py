"""What a long prompt does to those who are reading: inter-token times without and with arrivals.

Eight streams decode; after a while prompts of 2,048 tokens arrive one behind the other, the next
as soon as the one before has its first token, so that there always is one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from . import prompts
from .alone import Runner
from .calm import measured
from .client import Answer, post
from .fresh import call
from .options import Options
from .server import call_served
from .statistics import CaseResult, Figure, gaps, median, percentile

STREAMS, PROMPT, ARRIVING_PROMPT = 8, 64, 2048
ENDLESS = 4000
MOST_RATIO = 3.0


def measure_alone(artifact: str, seed: int, seconds: float, arrivals: int) -> dict[str, float]:
    """The engine alone: calm for so many seconds, then so many arrivals."""
    source, runner = random.Random(f"stall/{seed}"), Runner(artifact)
    streams = [runner.add(prompts.ids(source, PROMPT), ENDLESS) for _ in range(STREAMS)]
    while not all(runner.times_of(stream) for stream in streams):
        runner.step()
    warm = perf_counter() + 0.5
    while runner.step() < warm:
        pass
    calm_from = perf_counter()
    while runner.step() < calm_from + seconds:
        pass
    arrivals_from, waited = perf_counter(), []
    for _ in range(arrivals):
        began = perf_counter()
        arriving = runner.add(prompts.ids(source, ARRIVING_PROMPT), 1)
        while arriving.finish_reason is None:
            runner.step()
        waited.append(perf_counter() - began)
    times = [runner.times_of(stream) for stream in streams]
    return summary(times, calm_from, arrivals_from, perf_counter(), waited)


def measure_http(port: int, seed: int, seconds: float, arrivals: int) -> dict[str, float]:
    """The same through HTTP."""
    return asyncio.run(_measure_http(port, random.Random(f"stall/{seed}"), seconds, arrivals))


async def _measure_http(
    port: int, source: random.Random, seconds: float, arrivals: int
) -> dict[str, float]:
    path = "/v1/completions"
    bodies = [_body(prompts.words(source, PROMPT), ENDLESS) for _ in range(STREAMS)]
    over = asyncio.Event()

    def enough(_: Answer) -> bool:
        return over.is_set()

    tasks = [asyncio.create_task(post(port, path, body, until=enough)) for body in bodies]
    await asyncio.sleep(1.5)
    calm_from = perf_counter()
    await asyncio.sleep(seconds)
    arrivals_from, waited = perf_counter(), []
    for _ in range(arrivals):
        answer = await post(port, path, _body(prompts.ids(source, ARRIVING_PROMPT), 1))
        waited.append(answer.ended - answer.started)
    ended = perf_counter()
    over.set()
    answers = await asyncio.gather(*tasks)
    return summary([a.token_times for a in answers], calm_from, arrivals_from, ended, waited)


def _body(prompt: str | list[int], output: int) -> dict[str, Any]:
    return {
        "model": "default",
        "prompt": prompt,
        "max_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def summary(
    times: Sequence[Sequence[float]],
    calm_from: float,
    arrivals_from: float,
    ended: float,
    waited: Sequence[float],
) -> dict[str, float]:
    """Inter-token times, in ms, of the calm part and of the part with arrivals."""

    def between(first: float, last: float) -> list[float]:
        parts = ([t for t in stream if first <= t <= last] for stream in times)
        return [gap * 1e3 for part in parts for gap in gaps(part)]

    calm, busy = between(calm_from, arrivals_from), between(arrivals_from, ended)
    return {
        "calm median": median(calm),
        "calm p99": percentile(calm, 0.99),
        "arrivals median": median(busy),
        "arrivals p99": percentile(busy, 0.99),
        "arrivals max": max(busy, default=float("nan")),
        "arriving prompt's first token": median(waited) * 1e3,
        "ratio": percentile(busy, 0.99) / median(calm),
    }


def run(options: Options) -> CaseResult:
    """Alone and through HTTP, in turns; medians over the rounds."""
    size = {"seconds": 1.0, "arrivals": 1} if options.short else {"seconds": 4.0, "arrivals": 4}
    found: dict[str, list[dict[str, float]]] = {"engine": [], "HTTP": []}
    for seed in range(options.rounds):
        what = f"stall, round {seed + 1}: "
        ask = partial(call, measure_alone, artifact=options.artifact, seed=seed, **size)
        found["engine"].append(measured(options, what + "engine alone", ask))
        ask = partial(call_served, measure_http, options.artifact, seed=seed, **size)
        found["HTTP"].append(measured(options, what + "through HTTP", ask))
    figures = []
    for side, runs in found.items():
        for name in runs[0]:
            value = median(one[name] for one in runs)
            if name == "ratio":
                figures.append(Figure(f"{side}: p99 with / median without", value, "", MOST_RATIO))
            else:
                figures.append(Figure(f"{side}: {name}", value, "ms"))
    note = f"{STREAMS} streams; prompts of {ARRIVING_PROMPT} tokens, always one of them under way"
    return CaseResult("stall", tuple(figures), (note,))
