"""Drives llama.cpp through `llama-cpp-python`'s C API: all sequences share each `llama_batch`."""

import ctypes
import time

import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np
from driving import Task, Timing, attention_cache_bytes, main

_UBATCH = 512
_F16_BYTES = 2


class LlamaCpp:
    """A context with room for every sequence; keys and values in f16."""

    same_warmup = False

    def __init__(self, task: Task) -> None:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            task.model.encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise SystemExit(f"llama.cpp can't load {task.model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = task.sequences * (-(-task.context // 256) * 256)
        params.n_ubatch = _UBATCH
        params.n_seq_max = task.sequences
        params.n_threads = params.n_threads_batch = task.threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.n_batch = params.n_batch
        self.vocab = task.shape["vocab"]
        self.weight_bytes = llama_cpp.llama_model_size(self.model)
        self.cache_bytes = attention_cache_bytes(task.shape, _F16_BYTES)

    def generate(self, prompts: list[list[int]], output: int) -> Timing:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        began = time.perf_counter()
        tokens = self._prefill(prompts)
        prefill = time.perf_counter() - began
        position = len(prompts[0])
        for step in range(output - 1):
            rows = [(token, position + step, index, True) for index, token in enumerate(tokens)]
            tokens = self._decode(rows)
        return Timing(prefill, time.perf_counter() - began)

    def _prefill(self, prompts: list[list[int]]) -> list[int]:
        """Return each sequence's first token."""
        rows = [
            (token, at, index, at == len(prompt) - 1)
            for index, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        found: list[int] = []
        for start in range(0, len(rows), self.n_batch):
            found += self._decode(rows[start : start + self.n_batch])
        return found

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute rows of (token, position, sequence, whether its next token is wanted)."""
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.n_tokens = len(rows)
        failed = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise SystemExit(f"llama_decode returned {failed}")
        return [self._argmax(i) for i, row in enumerate(rows) if row[3]]

    def _argmax(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())


@llama_cpp.llama_log_callback
def _SILENT(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp's log isn't a measurement."""


if __name__ == "__main__":
    main(LlamaCpp)
