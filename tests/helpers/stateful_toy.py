"""The toy model with state beside its keys, or with state alone.

A slot holds a hash of all tokens that its sequence has seen. Logits are a hash of that and of what
the cache groups show, so whoever goes on from a wrong snapshot gets another text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llmc.artifact.manifest import CacheGroup, make_state_slots
from llmc.artifact.program import InputCheck, StepInputs, StepOutputs
from toy_program import BLOCK, GROUPS, MASK, SEED, VOCAB, WINDOW, Toy

FULL, SLIDING = GROUPS
KINDS: dict[str, tuple[CacheGroup, ...]] = {
    "state": (),
    "full": (FULL,),
    "sliding": (SLIDING,),
    "both": GROUPS,
}
"""Cache groups beside the state."""


def seen(h: int, token: int) -> int:
    """The hash of some tokens and this one."""
    return ((h ^ (token + 1)) * 1099511628211) & MASK


class StatefulToy(Toy):
    """`StatefulProgram`; whatever it is given is checked as native code would need it."""

    def __init__(
        self,
        cache_blocks: tuple[int, ...] = (40, 24),
        *,
        slots: int = 12,
        groups: tuple[CacheGroup, ...] = GROUPS,
        **limits: Any,
    ) -> None:
        blocks = tuple(cache_blocks[GROUPS.index(group)] for group in groups)
        super().__init__(blocks, **limits)
        self.cache_groups = groups
        self.state = make_state_slots([(0, "hash", (2,))])
        self.state_slots = slots
        self.slots = [-1] * slots
        self._check = InputCheck(self)

    @staticmethod
    def row_of(tokens: Sequence[int], groups: Sequence[CacheGroup]) -> np.ndarray:
        """Logits f32 [vocab] after these tokens."""
        h = SEED
        for token in tokens:
            h = seen(h, token)
        for group in groups:
            for token in tokens[-WINDOW:] if group.window else tokens:
                h = seen(h, token)
        return Toy.logits([], h)

    def continuation(self, prompt: Sequence[int], count: int) -> list[int]:
        """What comes after a prompt, greedily."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.row_of(tokens, self.cache_groups).argmax()))
        return tokens[len(prompt) :]

    def step(self, inputs: StepInputs) -> StepOutputs:
        self._check.check(inputs)
        self.steps.append(inputs)
        wanted, rows = set(inputs.logits_rows), []
        for s, slot in enumerate(inputs.state_slots):
            places = range(inputs.query_start[s], inputs.query_start[s + 1])
            h = self.slots[slot] if inputs.positions[places[0]] else SEED
            assert h >= 0, "a state that was never written"
            for t in places:
                token, position = inputs.token_ids[t], inputs.positions[t]
                h = seen(h, token)
                for cache, table in zip(self.cache, inputs.block_tables, strict=True):
                    cache[table[s][position // BLOCK], position % BLOCK] = token
                if t in wanted:
                    rows.append(self._row_at(inputs, s, position, h))
            self.slots[slot] = h
        return StepOutputs.of(np.stack(rows) if rows else np.empty((0, VOCAB), np.float32))

    def _row_at(self, inputs: StepInputs, s: int, position: int, h: int) -> np.ndarray:
        tables = zip(self.cache_groups, self.cache, inputs.block_tables, strict=True)
        for group, cache, table in tables:
            first = max(0, position - WINDOW + 1) if group.window else 0
            for p in range(first, position + 1):
                token = int(cache[table[s][p // BLOCK], p % BLOCK])
                assert token >= 0, "read a position that was never written"
                h = seen(h, token)
        return Toy.logits([], h)

    def copy_slot(self, source: int, target: int) -> None:
        assert self._check.slots is not None
        self._check.slots.copied(source, target)
        self.slots[target] = self.slots[source]
