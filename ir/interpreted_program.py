"""A graph in phase SERVING as a `Program`: the interpreter behind the runtime's protocol.

Lets the conformance schedule, which drives compiled libraries, drive a graph as well: the
compile's probe and the tests of passes compare it with the source model.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub

import torch

from ..artifact.checked_slots import CheckedSlots
from ..artifact.manifest import Limits
from ..artifact.program import BlockRow, StepInputs, StepOutputs
from .graph import Graph, Value
from .interpreter import Constants, interpret
from .roles import StepArray, Table
from .state_memory import StateMemory
from .states import cache_groups, state_slots


class InterpretedProgram:
    """Runs `graph` with torch; constants are evaluated once.

    `cache_blocks`: of each cache group; `slots`: for the sequences' states, if it keeps any.
    """

    def __init__(
        self,
        graph: Graph,
        limits: Limits,
        cache_blocks: int,
        constants: Constants,
        slots: int = 8,
    ) -> None:
        self.limits = limits
        self.cache_groups = tuple(cache_groups(graph, limits.block_size))
        self.cache_blocks = (cache_blocks,) * len(self.cache_groups)
        self.vocab_size = graph.vocab_size
        self._graph = graph
        self._known: dict[Value, torch.Tensor] = {}
        self._evaluate = constants
        self.state = state_slots(graph)
        self.state_slots = slots if self.state else 0
        self._slots = CheckedSlots(self.state_slots)
        counts = (*self.cache_blocks, *[slots] * (len(graph.groups) - len(self.cache_groups)))
        self._memory = StateMemory(graph, counts, limits.block_size)

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Evaluate the graph once; what sites keep is as it wrote it."""
        if self.state is not None:
            starts, ends = inputs.query_start, inputs.context_len
            counts = map(sub, starts[1:], starts)
            self._slots.check(inputs.state_slots, [*map(sub, ends, counts)], ends)
        tensors = {
            value.name: _step_tensor(value, inputs)
            for value in self._graph.inputs
            if isinstance(value.role, StepArray | Table)
        }
        with torch.no_grad():
            (logits,) = interpret(self._graph, tensors | self._memory.tensors, self._constant)
        return StepOutputs.of(logits.float().numpy())

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a block in all of the group's sites."""
        self._memory.copy(group, source, target)

    def copy_slot(self, source: int, target: int) -> None:
        """Copies a slot in all sites that have one."""
        for group in range(len(self.cache_groups), len(self._graph.groups)):
            self._memory.copy(group, source, target)
        self._slots.copied(source, target)

    def close(self) -> None:
        """Nothing is held outside of Python."""

    def _constant(self, value: Value) -> torch.Tensor:
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]


def _step_tensor(value: Value, inputs: StepInputs) -> torch.Tensor:
    """A step array or a group's table, by the input's role."""
    role = value.role
    if isinstance(role, Table):
        assert role.group is not None
        return _padded(inputs.block_tables[role.group])
    assert isinstance(role, StepArray)
    name = "state_slots" if role is StepArray.STATE_SLOT else role.value
    return torch.tensor(getattr(inputs, name), dtype=torch.int32)


def _padded(table: Sequence[BlockRow]) -> torch.Tensor:
    """A block table as i32 [S, B]."""
    longest = max(map(len, table))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in table], dtype=torch.int32)
