"""Drives `torch.compile` on `transformers`: a static cache, and a graph for decode.

Prefill runs uncompiled, as in `transformers`' own generation with a static cache.
"""

import time

import torch
from driving import Task, Timing, attention_cache_bytes, main
from transformers import AutoModelForCausalLM, StaticCache

_BF16_BYTES = 2


class TorchCompile:
    """bf16 weights and cache; the shape of a decode step is compiled while warming up."""

    same_warmup = False

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.bfloat16).eval()
        self.length = task.context
        self.decode = torch.compile(self.model.forward, dynamic=False)
        self.weight_bytes = _BF16_BYTES * sum(p.numel() for p in self.model.parameters())
        self.cache_bytes = attention_cache_bytes(task.shape, _BF16_BYTES)

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        cache = StaticCache(config=self.model.config, max_cache_len=self.length)
        tokens = torch.tensor(prompts)
        began = time.perf_counter()
        tokens = self._step(tokens, 0, cache)
        prefill = time.perf_counter() - began
        for step in range(output - 1):
            tokens = self._step(tokens, len(prompts[0]) + step, cache)
        return Timing(prefill, time.perf_counter() - began)

    def _step(self, tokens: torch.Tensor, position: int, cache: StaticCache) -> torch.Tensor:
        """Return each sequence's next token, [sequences, 1]."""
        positions = torch.arange(position, position + tokens.shape[1])
        forward = self.model.forward if tokens.shape[1] > 1 else self.decode
        outputs = forward(
            input_ids=tokens,
            position_ids=positions[None],
            past_key_values=cache,
            cache_position=positions,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1].argmax(-1, keepdim=True)


if __name__ == "__main__":
    main(TorchCompile)
