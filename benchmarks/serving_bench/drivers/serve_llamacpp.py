"""Serves the load with llama.cpp in this process, batched as its own server does it.

llama.cpp's library has no scheduler; its server puts the next token of every running sequence into
a `llama_batch` first and fills it up with prompts to `n_batch` tokens, which is what this does
through `llama-cpp-python`'s C API. Greedy, argmax by numpy; keys and values in f16.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np
from serving_load import WARMUP, Load, main

_MOST_SEQUENCES = 32
_N_BATCH, _N_UBATCH = 2048, 512
"""The server's defaults."""


@dataclass(slots=True)
class _Slot:
    key: int
    prompt: list[int]
    output: int
    computed: int = 0
    made: int = 0
    last: int = 0


class LlamaCpp:
    """A context with a cache for each sequence; more requests than sequences wait."""

    def __init__(self, task: dict[str, Any], load: Load) -> None:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            task["model"].encode(), llama_cpp.llama_model_default_params()
        )
        self.slots: list[_Slot | None] = [None] * (
            max(load.streams, WARMUP) if load.streams else _MOST_SEQUENCES
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = len(self.slots) * (-(-load.longest // 256) * 256)
        params.n_batch, params.n_ubatch, params.n_seq_max = _N_BATCH, _N_UBATCH, len(self.slots)
        params.n_threads = params.n_threads_batch = task["threads"]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(_N_BATCH, 0, 1)
        self.waiting: list[_Slot] = []

    def add(self, key: int, prompt: list[int], output: int) -> None:
        self.waiting.append(_Slot(key, prompt, output))

    def step(self) -> list[tuple[int, int]]:
        for index, slot in enumerate(self.slots):
            if slot is None and self.waiting:
                self.slots[index] = self.waiting.pop(0)
        self.batch.n_tokens = 0
        rows: list[tuple[int, int]] = []
        for index, slot in enumerate(self.slots):
            if slot is not None and slot.made:
                rows.append((index, self._put(slot.last, slot.computed, index, wanted=True)))
                slot.computed += 1
        for index, slot in enumerate(self.slots):
            if slot is not None and not slot.made:
                rows += self._put_prompt(index, slot)
        if llama_cpp.llama_decode(self.context, self.batch):
            raise SystemExit("llama_decode failed")
        return [self._take(index, row) for index, row in rows]

    def _put_prompt(self, index: int, slot: _Slot) -> list[tuple[int, int]]:
        room = _N_BATCH - self.batch.n_tokens
        for token in slot.prompt[slot.computed : slot.computed + room]:
            last = slot.computed == len(slot.prompt) - 1
            row = self._put(token, slot.computed, index, wanted=last)
            slot.computed += 1
            if last:
                return [(index, row)]
        return []

    def _put(self, token: int, position: int, sequence: int, *, wanted: bool) -> int:
        """Add a row to the batch and return its number."""
        batch, i = self.batch, self.batch.n_tokens
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.n_tokens = i + 1
        return i

    def _take(self, index: int, row: int) -> tuple[int, int]:
        """Choose the next token of a sequence from a row of logits."""
        slot = self.slots[index]
        assert slot is not None
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        slot.last = int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())
        slot.made += 1
        if slot.made == slot.output:
            llama_cpp.llama_memory_seq_rm(self.memory, index, -1, -1)
            self.slots[index] = None
        return slot.key, slot.made


@llama_cpp.llama_log_callback
def _SILENT(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp's log isn't a measurement."""


if __name__ == "__main__":
    main(LlamaCpp)
