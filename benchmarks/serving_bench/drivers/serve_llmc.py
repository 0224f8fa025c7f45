"""Serves the load with llmc in this process: requests on the engine of a loaded artifact."""

from typing import Any

import llmc
from llmc.runtime.engine.request import Request
from serving_load import Load, main


class Llmc:
    """An artifact; tokens are what the engine's deltas bring."""

    def __init__(self, task: dict[str, Any], load: Load) -> None:
        self.model = llmc.load(task["model"], threads=task["threads"])
        self.keys: dict[int, tuple[int, Request]] = {}

    def add(self, key: int, prompt: list[int], output: int) -> None:
        request = Request(tuple(prompt), output)
        self.keys[id(request)] = key, request
        self.model.engine.add(request)

    def step(self) -> list[tuple[int, int]]:
        news = []
        for delta in self.model.engine.step():
            key, request = self.keys[id(delta.request)]
            news.append((key, len(request.output)))
            if delta.finish_reason is not None:
                del self.keys[id(request)]
        return news


if __name__ == "__main__":
    main(Llmc)
