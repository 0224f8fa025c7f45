"""The second turn of a chat, whose beginning is in the prefix cache: time to its first token.

Each chat is new to the server: a first message of 1,000 words, then its answer and a short message
behind them.
"""

from __future__ import annotations

import asyncio
import random
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
from .statistics import CaseResult, Figure, median

PREFIX, MESSAGE, OUTPUT = 1000, 16, 32
MOST_RATIO = 0.15

Turns = dict[str, list[float]]
"""Seconds to the first token of each chat's first and second turn."""


def measure_alone(artifact: str, seed: int, chats: int) -> Turns:
    """The engine alone, with token ids."""
    source, runner = random.Random(f"chat/{seed}"), Runner(artifact)
    runner.run([prompts.ids(source, 64)], 8)
    found: Turns = {"first": [], "second": []}
    for _ in range(chats):
        ids = prompts.ids(source, PREFIX)
        for turn in ("first", "second"):
            began = perf_counter()
            request = runner.add(ids, OUTPUT)
            while request.finish_reason is None:
                runner.step()
            found[turn].append(runner.times_of(request)[0] - began)
            ids = ids + request.output + prompts.ids(source, MESSAGE)
    return found


def measure_http(port: int, seed: int, chats: int) -> Turns:
    """Through `/v1/chat/completions`, with text."""
    source = random.Random(f"chat/{seed}")
    found: Turns = {"first": [], "second": []}
    _ask(port, [_user(prompts.words(source, 64))])
    for _ in range(chats):
        messages = [_user(prompts.words(source, PREFIX))]
        for turn in ("first", "second"):
            answer = _ask(port, messages)
            found[turn].append(answer.token_times[0] - answer.started)
            messages.append({"role": "assistant", "content": answer.text})
            messages.append(_user(prompts.words(source, MESSAGE)))
    return found


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _ask(port: int, messages: list[dict[str, str]]) -> Answer:
    body: dict[str, Any] = {
        "model": "default",
        "messages": messages,
        "max_tokens": OUTPUT,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    answer = asyncio.run(post(port, "/v1/chat/completions", body))
    if answer.status != 200 or not answer.token_times:
        raise RuntimeError(f"status {answer.status}: {answer.raw[:300]!r}")
    return answer


def run(options: Options) -> CaseResult:
    """Alone and through HTTP, in turns; medians over all chats."""
    chats = 2 if options.short else 5
    found: dict[str, list[Turns]] = {"engine": [], "HTTP": []}
    for seed in range(options.rounds):
        what = f"chat, round {seed + 1}: "
        ask = partial(call, measure_alone, artifact=options.artifact, seed=seed, chats=chats)
        found["engine"].append(measured(options, what + "engine alone", ask))
        ask = partial(call_served, measure_http, options.artifact, seed=seed, chats=chats)
        found["HTTP"].append(measured(options, what + "through HTTP", ask))
    figures = []
    for side, rounds in found.items():
        first = median(seconds for one in rounds for seconds in one["first"])
        second = median(seconds for one in rounds for seconds in one["second"])
        figures += [
            Figure(f"{side}: first turn's first token", first * 1e3, "ms"),
            Figure(f"{side}: second turn's first token", second * 1e3, "ms"),
            Figure(f"{side}: second / first", second / first, "", MOST_RATIO),
        ]
    note = f"{PREFIX} tokens or words first, then {OUTPUT} answered tokens and {MESSAGE} words more"
    return CaseResult("chat", tuple(figures), (note,))
