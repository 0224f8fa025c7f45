"""A graph of slots as an `nn.Module`, and its export.

The module's inputs: token ids and positions i32[S, Q], start i32[S], the rows that logits are
wanted for i32[R], `extent` u8[U] (its length says how far slots are read; its elements nothing),
and all caches [S, H, L, D]. S, Q, R and U are dynamic. Its output: logits f32[R, vocab].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental import _config as shape_config

from ...artifact.manifest import Limits
from ...ir.graph import Graph, Value
from ...ir.ops import TORCH_DTYPE, Embedding
from ...ir.roles import StepArray
from ...ir.scalar import scalar_of
from .constants import Part, value_of
from .forms import Run, evaluate

LEAST = 2
"""The smallest Q and U that a compiled module takes: torch gives a size of 1 its own code."""

Parts = Mapping[Value, Sequence[Part]]


class SlotModule(torch.nn.Module):
    """Evaluates `graph` op by op; weights are buffers under the names of their parts."""

    def __init__(self, graph: Graph, parts: Parts) -> None:
        super().__init__()
        self.graph, self.parts = graph, parts
        for part in dict.fromkeys(part for some in parts.values() for part in some):
            self.register_buffer(part.name, part.empty())
        self.caches = graph.state_inputs

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        start: torch.Tensor,
        logits_rows: torch.Tensor,
        extent: torch.Tensor,
        caches: list[torch.Tensor],
    ) -> torch.Tensor:
        sequences, query = token_ids.shape
        for tensor in (positions, start, *caches):  # known early, it keeps later sizes simple
            torch._check(tensor.shape[0] == sequences)
        sizes = {"T": sequences * query, "S": sequences, "R": logits_rows.shape[0]}
        run = Run(query, extent.shape[0], sizes)
        arrays = {
            StepArray.TOKEN_IDS: token_ids.flatten(),
            StepArray.POSITIONS: positions.flatten(),
            StepArray.START: start,
            StepArray.LOGITS_ROWS: logits_rows,
        }
        values = dict(zip(self.caches, caches, strict=True))
        values |= {v: arrays[v.role] for v in self.graph.inputs if isinstance(v.role, StepArray)}
        for node in self.graph.nodes:
            if isinstance(node.op, Embedding) and node.inputs[0] in self.parts:
                table, ids = node.inputs
                results: Sequence[torch.Tensor] = (self._rows(table, values[ids]),)
            else:
                operands = [self._read(v, values) for v in node.inputs]
                results = evaluate(node.op, run, operands)
            values.update(zip(node.outputs, results, strict=True))
        return self._read(self.graph.outputs[0], values)

    def _read(self, value: Value, values: dict[Value, torch.Tensor]) -> torch.Tensor:
        if value not in values:
            number, dtype = scalar_of(value), TORCH_DTYPE.get(value.type.dtype)
            values[value] = (
                self._constant(value)
                if number is None
                # Computed, because a tensor made here would become one more constant.
                else torch.full((), number, dtype=dtype)
            )
        return values[value]

    def _constant(self, value: Value) -> torch.Tensor:
        return value_of(value.type, [getattr(self, part.name) for part in self.parts[value]])

    def _rows(self, table: Value, ids: torch.Tensor) -> torch.Tensor:
        """Rows of a table, each part's own: nothing else of it is dequantized."""
        tensors = [getattr(self, part.name)[ids.long()] for part in self.parts[table]]
        rows = value_of(table.type, tensors)
        return rows.float() if rows.is_floating_point() else rows


def export_module(module: SlotModule, limits: Limits) -> ExportedProgram:
    """Trace the module for any number of sequences, tokens and rows within `limits`."""
    length = limits.block_size
    sequences, query, rows, extent = 3, 5, 4, min(7, length)
    # Tensors of their own each: the same one twice would be taken for the same input.
    arguments = (
        torch.zeros(sequences, query, dtype=torch.int32),
        torch.zeros(sequences, query, dtype=torch.int32),
        torch.zeros(sequences, dtype=torch.int32),
        torch.zeros(rows, dtype=torch.int32),
        torch.zeros(extent, dtype=torch.uint8),
        [_cache(value, sequences, length) for value in module.caches],
    )
    s = Dim("s", min=1, max=max(sequences, limits.max_sequences))
    q = Dim("q", min=LEAST, max=max(query, limits.max_tokens))
    r = Dim("r", min=1, max=max(rows, limits.max_logits_rows))
    u = Dim("u", min=LEAST, max=length)
    shapes = ({0: s, 1: q}, {0: s, 1: q}, {0: s}, {0: r}, {0: u}, [{0: s} for _ in module.caches])
    # Without it a dimension that may be 1 is refused, or assumed not to be.
    patched = shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), patched:
        return export(module, arguments, dynamic_shapes=shapes, strict=False)


def _cache(value: Value, sequences: int, length: int) -> torch.Tensor:
    _, heads, _, width = value.type.shape
    return torch.empty(sequences, heads, length, width, dtype=TORCH_DTYPE[value.type.dtype])  # type: ignore[arg-type]
