"""The engine without threads, HTTP or anything else around it: what others are measured against."""

from __future__ import annotations

from time import perf_counter

import llmc
from llmc.runtime.api.model import Model
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.text.output import OutputText


def text_request(
    model: Model,
    prompt: list[int],
    max_tokens: int,
    params: SamplingParams | None = None,
    stop: tuple[str, ...] = (),
) -> Request:
    """A request whose tokens become text, and which no end-of-text token ends."""
    text = OutputText(model.tokenizer, stop)
    return Request(tuple(prompt), max_tokens, params or SamplingParams(), text=text)


class Runner:
    """Steps a model's engine and notes when each request got its tokens, by `perf_counter`."""

    def __init__(self, artifact: str) -> None:
        self.model = llmc.load(artifact)
        self.engine = self.model.engine
        self.times: dict[int, list[float]] = {}

    def add(self, prompt: list[int], max_tokens: int) -> Request:
        """Queue a request; greedy, with text."""
        request = text_request(self.model, prompt, max_tokens)
        self.times[id(request)] = []
        self.engine.add(request)
        return request

    def step(self) -> float:
        """One step; the moment it was done."""
        deltas = self.engine.step()
        now = perf_counter()
        for delta in deltas:
            self.times[id(delta.request)] += [now] * len(delta.token_ids)
        return now

    def run(self, prompts: list[list[int]], max_tokens: int) -> tuple[float, float]:
        """All of these at once: when they began, and when the last token came."""
        began = perf_counter()
        for prompt in prompts:
            self.add(prompt, max_tokens)
        ended = began
        while self.engine.has_work:
            ended = self.step()
        return began, ended

    def times_of(self, request: Request) -> list[float]:
        """When each token of a request came."""
        return self.times[id(request)]
