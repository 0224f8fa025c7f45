"""A graph of slots (phase SERVING) as a `Program`: the interpreter for programs without paging.

The oracle of every backend that asks for slots, and what the conformance schedule drives to check
the lowering: one call of the interpreter is one run over a range of slots, on views of the caches.
"""

from __future__ import annotations

import numpy as np
import torch

from ..artifact.manifest import Limits
from ..artifact.program import StepInputs, StepOutputs
from ..runtime.executors.slots import SlotPlanner, SlotRun
from .graph import Graph, Value
from .interpreter import Constants, interpret
from .roles import StepArray
from .state_memory import StateMemory
from .states import cache_groups


class InterpretedSlots:
    """Runs `graph` with torch on `slots` slots; constants are evaluated once.

    `limits.block_size` is the length of a slot.
    """

    def __init__(self, graph: Graph, limits: Limits, slots: int, constants: Constants) -> None:
        self.limits = limits
        self.cache_groups = tuple(cache_groups(graph, limits.block_size))
        self.cache_blocks = (slots,) * len(self.cache_groups)
        self.vocab_size = graph.vocab_size
        self._graph = graph
        self._known: dict[Value, torch.Tensor] = {}
        self._evaluate = constants
        self._planner = SlotPlanner(limits, slots)
        self._memory = StateMemory(graph, self.cache_blocks, limits.block_size)

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Evaluate the graph once a run; caches keep what it wrote."""
        logits = np.full((len(inputs.logits_rows), self.vocab_size), np.nan, np.float32)
        for run in self._planner.runs(inputs):
            logits[run.outputs] = self._run(run)
        return StepOutputs.of(logits)

    def _run(self, run: SlotRun) -> np.ndarray:
        tensors = {
            value.name: torch.tensor(getattr(run, value.role.value), dtype=torch.int32)
            for value in self._graph.inputs
            if isinstance(value.role, StepArray)
        }
        rows = slice(run.first, run.first + run.rows)
        views = {name: memory[rows] for name, memory in self._memory.tensors.items()}
        with torch.no_grad():
            (logits,) = interpret(self._graph, tensors | views, self._constant)
        return logits.float().numpy()

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a slot, which the first group names for all of them."""
        if group == 0:
            for number in range(len(self.cache_groups)):
                self._memory.copy(number, source, target)
            self._planner.copied(source, target)

    def close(self) -> None:
        """Nothing is held outside of Python."""

    def _constant(self, value: Value) -> torch.Tensor:
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]
