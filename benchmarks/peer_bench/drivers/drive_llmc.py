"""Drives llmc: requests on the engine of a loaded artifact, as `llmc bench` does."""

import time

import llmc
from driving import Task, Timing, main
from llmc.runtime.api.benchmark import Load, decode_step_bytes
from llmc.runtime.engine.engine import Request


class Llmc:
    """An artifact; its manifest says what a decode step reads."""

    same_warmup = False

    def __init__(self, task: Task) -> None:
        self.model = llmc.load(task.model, threads=task.threads)
        manifest, variant = self.model.manifest, self.model.variant
        assert manifest is not None
        assert variant is not None
        near, far = (decode_step_bytes(manifest, variant, Load(n, 2)) for n in (1024, 2048))
        self.cache_bytes = (far - near) // 1024
        self.weight_bytes = near - 1025 * self.cache_bytes

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        requests = [Request(tuple(prompt), output) for prompt in prompts]
        began = time.perf_counter()
        for request in requests:
            self.model.engine.add(request)
        prefill = None
        while self.model.engine.has_work:
            self.model.engine.step()
            if prefill is None and all(request.output for request in requests):
                prefill = time.perf_counter() - began
        return Timing(prefill, time.perf_counter() - began)


if __name__ == "__main__":
    main(Llmc)
