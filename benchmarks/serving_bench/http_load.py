"""The same load as `drivers/serving_load.py` carries out in a process, through HTTP instead.

Any server that speaks `/v1/completions` with token ids as prompts.
"""

from __future__ import annotations

import asyncio
import resource
from time import perf_counter
from typing import Any

from .client import Answer, post
from .drivers.serving_load import WARMUP, Load, Planned, plan


def measure(port: int, load: dict[str, Any]) -> dict[str, Any]:
    """Records of every request, as a driver prints them, and the client's processor time."""
    wanted = Load(**load)
    warmup = Load(wanted.seed + 1_000_000, WARMUP, streams=WARMUP, output=(4, 16))
    asyncio.run(carry_out(port, plan(warmup), WARMUP))
    used = _cpu()
    records = asyncio.run(carry_out(port, plan(wanted), wanted.streams))
    return {"records": records, "cpu_s": _cpu() - used}


async def carry_out(port: int, planned: list[Planned], streams: int) -> list[dict[str, Any]]:
    """By the plan's moments if `streams` is 0, else with so many under way."""
    began = perf_counter()
    room = asyncio.Semaphore(streams or len(planned))

    async def one(request: Planned) -> dict[str, Any]:
        if not streams:
            await asyncio.sleep(max(0.0, began + request.at - perf_counter()))
        async with room:
            arrived = perf_counter() if streams else began + request.at
            answer = await post(port, "/v1/completions", body(request))
        return record(arrived, request, answer)

    return list(await asyncio.gather(*(one(request) for request in planned)))


def body(request: Planned) -> dict[str, Any]:
    """What is asked of the server."""
    return {
        "model": "default",
        "prompt": request.prompt,
        "max_tokens": request.output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def record(arrived: float, request: Planned, answer: Answer) -> dict[str, Any]:
    """When each piece of text came. RuntimeError if the answer isn't whole."""
    made = answer.usage.get("completion_tokens") if answer.events else None
    if answer.status != 200 or not answer.complete or made != request.output:
        raise RuntimeError(f"status {answer.status}, {made} tokens: {answer.raw[-300:]!r}")
    return {"arrived": arrived, "tokens": answer.token_times, "made": made}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
