"""Drives OpenVINO GenAI: `LLMPipeline`, or with option `continuous` its batching pipeline."""

import time
from pathlib import Path

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]
import openvino_genai  # pyright: ignore[reportMissingImports]
from driving import Task, Timing, attention_cache_bytes, main

_CACHE_GB = 4
_U8_BYTES = 1
"""What the CPU plugin keeps keys and values in."""


def _config(output: int) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = output
    config.do_sample, config.ignore_eos = False, True
    return config


class _Pipeline:
    same_warmup = False

    def __init__(self, task: Task) -> None:
        self.properties = {"INFERENCE_NUM_THREADS": task.threads, **task.options["properties"]}
        self.weight_bytes = (Path(task.model) / "openvino_model.bin").stat().st_size
        self.cache_bytes = attention_cache_bytes(task.shape, _U8_BYTES)


class Single(_Pipeline):
    """`LLMPipeline`, all prompts as one rectangular batch."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.pipeline = openvino_genai.LLMPipeline(task.model, "CPU", **self.properties)

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        began = time.perf_counter()
        result = self.pipeline.generate(inputs, _config(output))
        total = time.perf_counter() - began
        return Timing(result.perf_metrics.get_ttft().mean / 1e3, total)


class Continuous(_Pipeline):
    """`ContinuousBatchingPipeline`, a request a prompt; tells when all is done, no more."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GB
        scheduler.max_num_seqs = task.sequences
        scheduler.max_num_batched_tokens = 512
        scheduler.enable_prefix_caching = False
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            task.model, scheduler, "CPU", self.properties
        )

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        ids = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        configs = [_config(output)] * len(prompts)
        began = time.perf_counter()
        results = self.pipeline.generate(ids, configs)
        total = time.perf_counter() - began
        assert all(len(result.m_generation_ids[0]) == output for result in results)
        return Timing(None, total)


if __name__ == "__main__":
    main(lambda task: Continuous(task) if task.options["continuous"] else Single(task))
