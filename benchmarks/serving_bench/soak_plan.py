"""The requests of the soak: lengths, options, and how the client behaves, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import prompts

Behaviour = Literal["reads", "leaves in time", "leaves at a token", "sends half"]

SHARED_PREFIXES, SHARED_WORDS = 5, 300
BURST_EVERY, BURST = 100, 20
LONGEST_PROMPT, LONGEST_OUTPUT = 800, 96
TOO_MANY_WORDS = 12_000
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Item:
    """One request of the soak. `patience`: seconds, or pieces of text, before the client leaves.

    `refused`: statuses of which one must come; none where an answer must come.
    """

    number: int
    at: float
    path: str
    body: Mapping[str, Any] | bytes
    behaviour: Behaviour = "reads"
    patience: float = 0.0
    refused: tuple[int, ...] = ()

    @property
    def streams(self) -> bool:
        return isinstance(self.body, Mapping) and bool(self.body.get("stream"))

    @property
    def structured(self) -> bool:
        """Whether an answer that stops is JSON: a stop string may cut it anywhere."""
        body = self.body
        return isinstance(body, Mapping) and "response_format" in body and "stop" not in body


def plan(seed: int, requests: int, seconds: float) -> list[Item]:
    """Requests in order of arrival: Poisson, with a burst of them now and then."""
    source = random.Random(f"soak/{seed}")
    shared = [prompts.words(source, SHARED_WORDS) for _ in range(SHARED_PREFIXES)]
    at, rate = 0.0, requests / seconds
    items = []
    for number in range(requests):
        if number % BURST_EVERY >= BURST:  # the burst's requests come at the same moment
            at += source.expovariate(rate * (1 - BURST / BURST_EVERY))
        items.append(_item(source, number, min(at, seconds), shared))
    return items


def _item(source: random.Random, number: int, at: float, shared: list[str]) -> Item:
    if source.random() < 0.05:
        return _refused(source, number, at)
    path, body = _asked(source, shared)
    body |= _sampling(source)
    body |= _extras(source, chat="messages" in body)
    kind = source.random()
    if kind < 0.1:
        return Item(number, at, path, body, "leaves in time", source.uniform(0.0, 0.4))
    if kind < 0.2 and "n" not in body:
        body["stream"] = True
        return Item(number, at, path, body, "leaves at a token", source.randint(1, 20))
    if kind < 0.22:
        return Item(number, at, path, body, "sends half")
    body["stream"] = source.random() < 0.6
    return Item(number, at, path, body)


def _asked(source: random.Random, shared: list[str]) -> tuple[str, dict[str, Any]]:
    """Path, prompt and length of the output."""
    length = round(LONGEST_PROMPT ** source.random())  # short ones as often as long ones
    text = prompts.words(source, length)
    if source.random() < 0.3:
        text = f"{source.choice(shared)} {text}"
    body: dict[str, Any] = {"model": "default", "max_tokens": source.randint(1, LONGEST_OUTPUT)}
    if source.random() < 0.5:
        return "/v1/completions", body | {"prompt": text}
    return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]}


def _sampling(source: random.Random) -> dict[str, Any]:
    """Greedy, or drawn with a seed, so that it can be done again."""
    if source.random() < 0.4:
        return {"temperature": 0}
    chosen: dict[str, Any] = {
        "temperature": round(source.uniform(0.2, 1.5), 2),
        "seed": source.randrange(2**31),
    }
    options = {
        "top_p": round(source.uniform(0.5, 1.0), 2),
        "top_k": source.randint(1, 200),
        "min_p": round(source.uniform(0.0, 0.3), 2),
        "presence_penalty": round(source.uniform(-1, 1), 2),
        "frequency_penalty": round(source.uniform(-1, 1), 2),
        "repetition_penalty": round(source.uniform(1.0, 1.3), 2),
        "logit_bias": {str(source.randint(100, 40000)): source.randint(-50, 5)},
    }
    return chosen | {name: options[name] for name in options if source.random() < 0.3}


def _extras(source: random.Random, *, chat: bool) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if source.random() < 0.2:
        extras["stop"] = source.choice([[" the"], ["\n\n", "###"], "."])
    if source.random() < 0.2:
        extras["ignore_eos"] = True
    if source.random() < 0.05:
        extras["n"] = 2
    if source.random() < 0.1:
        extras |= {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 2}
    if chat and "n" not in extras and source.random() < 0.1:
        schema = {"name": "person", "schema": _SCHEMA, "strict": True}
        extras["response_format"] = {"type": "json_schema", "json_schema": schema}
    return extras


def _refused(source: random.Random, number: int, at: float) -> Item:
    """Requests that are wrong, each in its own way."""
    path = "/v1/completions"
    wrong: list[tuple[Mapping[str, Any] | bytes, tuple[int, ...]]] = [
        ({"model": "default", "prompt": "a", "temperature": -1}, (400, 422)),
        ({"model": "default", "prompt": "a", "max_tokens": 0}, (400, 422)),
        ({"model": "nobody", "prompt": "a"}, (404,)),
        ({"model": "default", "prompt": prompts.words(source, TOO_MANY_WORDS)}, (400, 413, 422)),
        (b'{"model": "default", "prompt": ', (400, 422)),
        (b"\x00\xff\xfe", (400, 422)),
    ]
    body, statuses = source.choice(wrong)
    return Item(number, at, path, body, refused=statuses)
