"""Serves the load with OpenVINO GenAI's `ContinuousBatchingPipeline` in this process."""

from typing import Any

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]
import openvino_genai  # pyright: ignore[reportMissingImports]
from serving_load import Load, main

_CACHE_GB = 4
_MOST_SEQUENCES = 64
_STEP_TOKENS = 512


class OpenVino:
    """Its scheduler as it comes, with chunks of 512 tokens and dynamic split-fuse; no prefixes."""

    def __init__(self, task: dict[str, Any], load: Load) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GB
        scheduler.max_num_seqs = _MOST_SEQUENCES
        scheduler.max_num_batched_tokens = _STEP_TOKENS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": task["threads"]}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            task["model"], scheduler, "CPU", properties
        )
        self.handles: dict[int, Any] = {}
        self.counts: dict[int, int] = {}
        self.wanted: dict[int, int] = {}

    def add(self, key: int, prompt: list[int], output: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = output
        config.do_sample, config.ignore_eos = False, True
        ids = openvino.Tensor(np.array([prompt], np.int64))
        number = self.next_number = getattr(self, "next_number", 0) + 1
        self.handles[key] = self.pipeline.add_request(number, ids, config)
        self.counts[key], self.wanted[key] = 0, output

    def step(self) -> list[tuple[int, int]]:
        self.pipeline.step()
        news = []
        for key, handle in list(self.handles.items()):
            if not handle.can_read():
                continue
            for output in handle.read().values():
                self.counts[key] += len(output.generated_ids)
            news.append((key, self.counts[key]))
            if self.counts[key] == self.wanted[key]:
                del self.handles[key]
        return news


if __name__ == "__main__":
    main(OpenVino)
