"""Drives `torch.compile` (max-autotune) on a Llama in bf16, in an environment with torch alone.

In, on stdin: lines `prepare NAME SEQUENCES CONTEXT` and `turn NAME`. Out: a line of JSON for each,
after a first one that says what runs. The model is that of `transformers` with its `StaticCache`
where that works, else `plain_llama.py`. Arguments: the model's configuration as JSON, the device,
and what to compile with (`none`: nothing, for tests).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
TURN_SECONDS, MOST_STEPS = 0.12, 32

Step = Callable[[], Any]


class Peer:
    """A model, and prepared steps by name."""

    def __init__(self, config: dict[str, Any], device: str, mode: str) -> None:
        self.config, self.device, self.mode = config, device, mode
        self.steps: dict[str, tuple[Step, Callable[[], None]]] = {}
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.bfloat16)
        try:
            self.model = self._transformers()
            self.what, self._make = "transformers, StaticCache", self._static_cache_step
            self._make(1, 8)[0]()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.what, self._make = f"plain torch ({reason[:80]})", self._plain_step
            self.model = self._plain()

    def _transformers(self) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        with torch.device(self.device):
            model: Any = LlamaForCausalLM(LlamaConfig(**self.config))
        return model.to(torch.bfloat16).eval()

    def _plain(self) -> Any:
        from plain_llama import PlainLlama

        with torch.device(self.device):
            return PlainLlama(self.config).to(torch.bfloat16).eval()

    def _compiled(self, function: Any) -> Any:
        if self.mode == "none":
            return function
        return torch.compile(function, mode=self.mode, fullgraph=True, dynamic=False)

    def _static_cache_step(self, sequences: int, context: int) -> tuple[Step, Callable[[], None]]:
        """A decode step, and what puts the cache back to where the context ends with it."""
        from transformers import StaticCache

        cache = StaticCache(config=self.model.config, max_cache_len=context + MOST_STEPS)
        ids = torch.zeros(sequences, 1, dtype=torch.int64, device=self.device)
        at = torch.tensor([context - 1], device=self.device)

        def forward() -> Any:
            outputs = self.model(
                input_ids=ids, position_ids=at[None], past_key_values=cache, cache_position=at
            )
            return outputs.logits[:, -1].argmax(-1, keepdim=True)

        def rewind() -> None:
            for layer in cache.layers:
                length: Any = getattr(layer, "cumulative_length", None)
                if length is not None:
                    length.fill_(context - 1)

        forward()  # makes the cache
        rewind()
        return self._compiled(forward), rewind

    def _plain_step(self, sequences: int, context: int) -> tuple[Step, Callable[[], None]]:
        caches = self.model.new_cache(sequences, context)
        ids = torch.zeros(sequences, 1, dtype=torch.int64, device=self.device)
        at = torch.tensor([context - 1], device=self.device)
        compiled = self._compiled(self.model.forward)
        return (lambda: compiled(ids, at, caches)), lambda: None

    def prepare(self, name: str, sequences: int, context: int) -> dict[str, Any]:
        """Compile a step, and run it until its graph is recorded."""
        begin = time.perf_counter()
        step, rewind = self._make(sequences, context)
        for _ in range(3):
            step()
        self.steps[name] = step, rewind
        self._wait()
        return {"seconds": time.perf_counter() - begin}

    def turn(self, name: str) -> dict[str, float]:
        """Seconds of a step, of several behind one another."""
        step, rewind = self.steps[name]
        once = self._timed(step, rewind, 2)
        count = max(2, min(MOST_STEPS, int(TURN_SECONDS / max(once, 1e-6))))
        return {"seconds": self._timed(step, rewind, count)}

    def _timed(self, step: Step, rewind: Callable[[], None], count: int) -> float:
        rewind()
        self._wait()
        begin = time.perf_counter()
        for _ in range(count):
            step()
        self._wait()
        return (time.perf_counter() - begin) / count

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def main() -> None:
    """Answer until stdin ends; what libraries print goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=out, flush=True)

    peer = Peer(json.loads(sys.argv[1]), *sys.argv[2:4])
    answer({"what": peer.what, "torch": torch.__version__})
    for line in sys.stdin:
        verb, name, *sizes = line.split()
        try:
            found = peer.prepare(name, *map(int, sizes)) if verb == "prepare" else peer.turn(name)
            answer(found)
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]})


if __name__ == "__main__":
    main()
