"""A graph in phase SERVING as a `Program`: the interpreter behind the runtime's protocol.

Lets the conformance schedule, which drives compiled libraries, drive a graph as well: the
compile's probe and the tests of passes compare it with the source model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..artifact.manifest import CacheGroup, Limits, make_cache_group
from ..artifact.program import BlockRow, StepInputs, StepOutputs
from .graph import Graph, Value
from .interpreter import Constants, interpret
from .ops import TORCH_DTYPE
from .ops.cache_codes import pool_widths


class InterpretedProgram:
    """Runs `graph` with torch; constants are evaluated once."""

    def __init__(
        self, graph: Graph, limits: Limits, cache_blocks: int, constants: Constants
    ) -> None:
        self.limits = limits
        self.cache_groups = tuple(manifest_groups(graph, limits.block_size))
        self.cache_blocks = (cache_blocks,) * len(self.cache_groups)
        (vocab,) = graph.outputs[0].type.shape[-1:]
        assert isinstance(vocab, int)
        self.vocab_size = vocab
        self._graph = graph
        self._known: dict[Value, torch.Tensor] = {}
        self._evaluate = constants
        self._pools = self._make_pools()

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Evaluate the graph once; pools keep what it wrote."""
        tensors = {
            name: torch.tensor(getattr(inputs, name), dtype=torch.int32)
            for name in ("token_ids", "positions", "query_start", "context_len", "logits_rows")
        }
        for group, table in zip(self._graph.cache_groups, inputs.block_tables, strict=True):
            tensors[f"block_table.{group.name}"] = _padded(table)
        with torch.no_grad():
            (logits,) = interpret(self._graph, tensors | self._pools, self._constant)
        return StepOutputs.of(logits.float().numpy())

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copies a block in the pools of all the group's sites."""
        for site in self._graph.cache_groups[group].sites:
            for name in ("key", "value"):
                pool = self._pools[f"{name}_pool.{site}"]
                pool[target] = pool[source]

    def close(self) -> None:
        """Nothing is held outside of Python."""

    def _constant(self, value: Value) -> torch.Tensor:
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]

    def _make_pools(self) -> dict[str, torch.Tensor]:
        """Pools full of NaN: reading what was never written shows in the logits."""
        pools = {}
        for group in self._graph.cache_groups:
            widths = pool_widths(group.dtype, group.key_dim, group.value_dim)
            for site in group.sites:
                for name, width in zip(("key", "value"), widths, strict=True):
                    shape = (self.cache_blocks[0], self.limits.block_size, group.kv_heads, width)
                    # All bits set: NaN in f32, in bf16, and in the scales of an int8 cache.
                    size = TORCH_DTYPE[group.dtype].itemsize
                    poison = torch.full((*shape[:-1], width * size), -1, dtype=torch.int8)
                    pools[f"{name}_pool.{site}"] = poison.view(TORCH_DTYPE[group.dtype])
        return pools


def _padded(table: Sequence[BlockRow]) -> torch.Tensor:
    """A block table as i32 [S, B]."""
    longest = max(map(len, table))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in table], dtype=torch.int32)


def manifest_groups(graph: Graph, block_size: int) -> list[CacheGroup]:
    """The graph's cache groups as the manifest states them."""
    return [
        make_cache_group(
            name=group.name,
            window=group.window,
            layers=len(group.sites),
            kv_heads=group.kv_heads,
            key_dim=group.key_dim,
            value_dim=group.value_dim,
            dtype=group.dtype.value,
            block_size=block_size,
        )
        for group in graph.cache_groups
    ]
