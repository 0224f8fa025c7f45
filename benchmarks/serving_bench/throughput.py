"""Sixteen streams through HTTP against the engine alone: how much is lost on the way.

Both sides get the same prompts and make outputs of the same length; time runs from the first
prompt to the last token. Each measurement is a fresh process, and the sides take turns.
"""

from __future__ import annotations

import asyncio
import random
import resource
from functools import partial
from typing import Any

from . import prompts
from .alone import Runner
from .calm import measured
from .client import all_of, post
from .fresh import call
from .options import Options
from .server import call_served
from .statistics import CaseResult, Figure, gaps, median

STREAMS, PROMPT, OUTPUT = 16, 128, 128
LEAST_RATIO = 0.9


def _prompts(seed: int) -> list[list[int]]:
    source = random.Random(f"throughput/{seed}")
    return [prompts.ids(source, PROMPT) for _ in range(STREAMS)]


def measure_alone(artifact: str, seed: int, output: int) -> dict[str, float]:
    """Tokens per second of the engine alone."""
    runner = Runner(artifact)
    runner.run(_prompts(-1 - seed)[:4], 8)
    began, ended = runner.run(_prompts(seed), output)
    return {"tokens_per_s": STREAMS * output / (ended - began)}


def measure_http(port: int, seed: int, output: int) -> dict[str, float]:
    """Tokens per second that a client got, and the share of a core that it took for that."""

    async def ask(ids: list[list[int]], count: int) -> tuple[float, list[Any]]:
        bodies = [_body(one, count) for one in ids]
        used = _cpu()
        answers = await all_of([post(port, "/v1/completions", body) for body in bodies])
        return _cpu() - used, answers

    asyncio.run(ask(_prompts(-1 - seed)[:4], 8))
    cpu, answers = asyncio.run(ask(_prompts(seed), output))
    tokens = sum(answer.usage["completion_tokens"] for answer in answers)
    if tokens != STREAMS * output or not all(answer.complete for answer in answers):
        raise RuntimeError(f"{tokens} tokens came, not {STREAMS * output}")
    seconds = max(a.ended for a in answers) - min(a.started for a in answers)
    return {
        "tokens_per_s": tokens / seconds,
        "client_cpu": cpu / seconds,
        "inter_token_ms": median(gap for a in answers for gap in gaps(a.token_times)) * 1e3,
    }


def _body(ids: list[int], output: int) -> dict[str, Any]:
    return {
        "model": "default",
        "prompt": ids,
        "max_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(options: Options) -> CaseResult:
    """The sides in turns; the ratio is the median of the pairs' ratios."""
    output = 32 if options.short else OUTPUT
    alone: list[float] = []
    served: list[dict[str, float]] = []
    for seed in range(options.rounds):
        arguments = {"seed": seed, "output": output}
        what = f"http, round {seed + 1}: "
        ask = partial(call, measure_alone, artifact=options.artifact, **arguments)
        alone.append(measured(options, what + "engine alone", ask)["tokens_per_s"])
        ask = partial(call_served, measure_http, options.artifact, **arguments)
        served.append(measured(options, what + "through HTTP", ask))
    ratio = median(one["tokens_per_s"] / base for one, base in zip(served, alone, strict=True))
    return CaseResult(
        "http",
        (
            Figure("engine alone", median(alone), "tokens/s"),
            Figure("through HTTP", median(one["tokens_per_s"] for one in served), "tokens/s"),
            Figure("ratio", ratio, "", LEAST_RATIO, "at least"),
            Figure("client's CPU", median(one["client_cpu"] for one in served), "cores"),
            Figure("inter-token median", median(one["inter_token_ms"] for one in served), "ms"),
        ),
        (f"{STREAMS} streams, prompts of {PROMPT} tokens, {output} output tokens each",),
    )
