"""Short calls one behind the other that share a system prompt: what each takes beyond the program.

Overhead is the time from sending a call to having read its answer, less the time that the
compiled program's steps took meanwhile, which a probe in the server's process counts.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import llmc

from . import prompts
from .calm import measured
from .client import Caller
from .fresh import call
from .options import Options
from .probe import CODE, StepClock
from .server import call_served
from .statistics import CaseResult, Figure, median, percentile

SYSTEM, MESSAGE, OUTPUT, CALLS = 500, 12, 8, 200
MEDIAN_MS, P99_MS = 3, 8

Calls = dict[str, list[float]]
"""Seconds of each call, and of them in the program."""


def measure_alone(artifact: str, seed: int, calls: int) -> Calls:
    """`Model.generate` in this process."""
    source, clock = random.Random(f"agent/{seed}"), StepClock()
    system = prompts.words(source, SYSTEM)
    found: Calls = {"call": [], "program": []}
    with llmc.load(artifact) as model:
        clock.attach(model.program)
        for number in range(calls + 2):
            spent, began = clock.seconds, perf_counter()
            text = model.generate(
                _messages(system, prompts.words(source, MESSAGE)),
                max_tokens=OUTPUT,
                ignore_eos=True,
            )
            for _ in text:
                pass
            if number >= 2:  # the first ones fill the caches
                found["call"].append(perf_counter() - began)
                found["program"].append(clock.seconds - spent)
    return found


def measure_http(port: int, probe: str, seed: int, calls: int) -> Calls:
    """`/v1/chat/completions` on a kept connection."""
    source, clock = random.Random(f"agent/{seed}"), StepClock(Path(probe))
    system = prompts.words(source, SYSTEM)
    found: Calls = {"call": [], "program": []}
    caller = Caller(port)
    for number in range(calls + 2):
        body: dict[str, Any] = {
            "model": "default",
            "messages": _messages(system, prompts.words(source, MESSAGE)),
            "max_tokens": OUTPUT,
            "temperature": 0,
            "ignore_eos": True,
        }
        spent = clock.seconds
        took, _ = caller.post("/v1/chat/completions", body)
        if number >= 2:
            found["call"].append(took)
            found["program"].append(clock.seconds - spent)
    caller.close()
    return found


def _messages(system: str, text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def run(options: Options) -> CaseResult:
    """Alone and through HTTP, in turns."""
    calls = 30 if options.short else CALLS
    found: dict[str, list[Calls]] = {"in this process": [], "HTTP": []}
    for seed in range(options.rounds):
        what = f"agent, round {seed + 1}: "
        ask = partial(call, measure_alone, artifact=options.artifact, seed=seed, calls=calls)
        found["in this process"].append(measured(options, what + "in a process", ask))
        with TemporaryDirectory(prefix="llmc-agent-") as folder:
            probe = str(Path(folder) / "steps")
            arguments = {"probe": probe, "seed": seed, "calls": calls, "code": CODE.format(probe)}
            ask = partial(call_served, measure_http, options.artifact, **arguments)
            found["HTTP"].append(measured(options, what + "through HTTP", ask))
    figures: list[Figure] = []
    for side, rounds in found.items():
        figures += _figures(side, rounds)
    note = f"{calls} calls: {SYSTEM} words of system prompt, {MESSAGE} more, {OUTPUT} tokens out"
    return CaseResult("agent", tuple(figures), (note,))


def _figures(side: str, rounds: list[Calls]) -> list[Figure]:
    def over_rounds(share: float) -> float:
        return median(
            percentile([c - p for c, p in zip(r["call"], r["program"], strict=True)], share)
            for r in rounds
        )

    return [
        Figure(f"{side}: median call", median(median(r["call"]) for r in rounds) * 1e3, "ms"),
        Figure(f"{side}: median overhead", over_rounds(0.5) * 1e3, "ms", MEDIAN_MS),
        Figure(f"{side}: p99 overhead", over_rounds(0.99) * 1e3, "ms", P99_MS),
    ]
