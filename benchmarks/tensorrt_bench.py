"""An artifact's engine beside `torch.compile` of the source model, on the same GPU in one run.

    python benchmarks/tensorrt_bench.py smol.llmc HuggingFaceTB/SmolLM2-135M-Instruct

Needs an NVIDIA GPU of those in the artifact and a torch with CUDA. The peer is the model in f16
with a static cache, its decode step compiled with CUDA graphs (`mode="reduce-overhead"`), as the
documentation of `transformers` recommends. Both decode one sequence greedily from random prompts.
No GPU has run this yet.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from llmc.runtime.api.benchmark import Load, bench
from transformers import AutoModelForCausalLM, StaticCache


def torch_rates(source: str, prompt: int, output: int, repeat: int) -> dict[str, float]:
    """Prefill and decode tokens a second of the compiled source model."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    model = model.eval().to("cuda")
    step = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    prefills, decodes = [], []
    for number in range(repeat + 2):  # two that compile and record
        ids = torch.randint(0, model.config.vocab_size, (1, prompt), device="cuda")
        cache = StaticCache(config=model.config, max_cache_len=prompt + output)
        with torch.no_grad():
            prefill, decode = _generate(model, step, ids, cache, output)
        if number >= 2:
            prefills.append(prompt / prefill)
            decodes.append((output - 1) / decode)
    return {"prefill": statistics.median(prefills), "decode": statistics.median(decodes)}


def _generate(model: Any, step: Any, ids: torch.Tensor, cache: Any, output: int) -> tuple:
    """Seconds of the prompt and of the tokens after the first."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    logits = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:]
    token = logits.argmax(-1)
    torch.cuda.synchronize()
    first = time.perf_counter()
    for _ in range(output - 1):
        token = step(token.clone(), past_key_values=cache, use_cache=True).logits.argmax(-1)
    torch.cuda.synchronize()
    return first - began, time.perf_counter() - first


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("source")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    shape = Load(given.prompt_tokens, given.output_tokens, repeat=given.repeat, target="trt")
    ours = bench(given.artifact, shape)
    peer = torch_rates(given.source, given.prompt_tokens, given.output_tokens, given.repeat)
    ratios = {
        "prefill": ours.prefill_tokens_per_s / peer["prefill"],
        "decode": ours.decode_tokens_per_s / peer["decode"],
    }
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": peer, "ratio": ratios,
                      "llmc": {"prefill": ours.prefill_tokens_per_s,
                               "decode": ours.decode_tokens_per_s}}, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
