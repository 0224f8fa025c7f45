"""What sites keep between steps, as tensors for the interpreter.

In: a lowered graph, how many blocks or slots each group has. Out: a tensor for each input with the
role `State`, full of NaN: reading what was never written shows in the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .graph import Graph, StateGroup, Value
from .ops import TORCH_DTYPE
from .roles import State
from .states import KINDS
from .types import Env, bind_dim


class StateMemory:
    """`counts`: blocks or slots of each group; `block_size`: tokens of one."""

    def __init__(self, graph: Graph, counts: Sequence[int], block_size: int) -> None:
        groups = {site: group for group in graph.groups for site in group.sites}
        sizes = {
            group.name: KINDS[group.kind].sizes(group, count, block_size)
            for group, count in zip(graph.groups, counts, strict=True)
        }
        self.tensors: dict[str, torch.Tensor] = {}
        """By the names of the inputs."""
        self._of_group: list[list[torch.Tensor]] = [[] for _ in graph.groups]
        for value in graph.inputs:
            if isinstance(value.role, State) and value.role.site is not None:
                group: StateGroup = groups[value.role.site]
                tensor = _poisoned(value, sizes[group.name])
                self.tensors[value.name] = tensor
                self._of_group[graph.groups.index(group)].append(tensor)

    def copy(self, group: int, source: int, target: int) -> None:
        """Copy a block or slot of all the group's sites."""
        for tensor in self._of_group[group]:
            tensor[target] = tensor[source]


def _poisoned(value: Value, sizes: Env) -> torch.Tensor:
    """All bits set: NaN in f32, f16 and bf16, and in the scales of an int8 cache."""
    dtype = TORCH_DTYPE[value.type.dtype]
    *shape, width = (bind_dim(dim, sizes) for dim in value.type.shape)
    poison = torch.full((*shape, width * dtype.itemsize), -1, dtype=torch.int8)
    return poison.view(dtype)
