"""Drives `torch.compile` on `transformers`: a static cache, a graph for prefill, one for decode."""

import time

import torch
import torch._inductor.config as inductor
from driving import Task, Timing, attention_cache_bytes, main
from transformers import AutoModelForCausalLM, StaticCache

_BF16_BYTES = 2


class TorchCompile:
    """bf16 weights and cache; shapes are fixed, so each is compiled once, while warming up."""

    same_warmup = True

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        torch.set_grad_enabled(False)
        inductor.freezing = True  # weights in the layout the kernels want
        self.model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.bfloat16).eval()
        self.length = task.context
        self.forward = torch.compile(self.model.forward, dynamic=False)
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
        outputs = self.forward(
            input_ids=tokens,
            position_ids=positions[None],
            past_key_values=cache,
            cache_position=positions,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1].argmax(-1, keepdim=True)


if __name__ == "__main__":
    main(TorchCompile)
