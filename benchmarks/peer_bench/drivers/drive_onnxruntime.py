"""Drives ONNX Runtime GenAI: all prompts as one rectangular batch of a generator."""

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai  # pyright: ignore[reportMissingImports]
from driving import Task, Timing, attention_cache_bytes, main

_F32_BYTES = 4


class OnnxRuntime:
    """A model folder of its builder; threads are set in the folder's configuration at load."""

    same_warmup = False

    def __init__(self, task: Task) -> None:
        config = onnxruntime_genai.Config(task.model)
        options = {"intra_op_num_threads": task.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)
        self.weight_bytes = (Path(task.model) / "model.onnx.data").stat().st_size
        self.cache_bytes = attention_cache_bytes(task.shape, _F32_BYTES)

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        length = len(prompts[0]) + output
        params = onnxruntime_genai.GeneratorParams(self.model)
        params.set_search_options(
            max_length=length, min_length=length, do_sample=False, batch_size=len(prompts)
        )
        generator = onnxruntime_genai.Generator(self.model, params)
        ids = np.array(prompts, np.int32)
        began = time.perf_counter()
        generator.append_tokens(ids if len(prompts) > 1 else ids[0])
        generator.generate_next_token()
        prefill = time.perf_counter() - began
        for _ in range(output - 1):
            generator.generate_next_token()
        return Timing(prefill, time.perf_counter() - began)


if __name__ == "__main__":
    main(OnnxRuntime)
