"""What magnitudes the inputs of linear layers reach: measured once, on a fixed text.

TensorRT quantizes activations to int8 or E4M3 with scales that are constants of the engine (a scale
that is computed at run time was refused for both). So the graph is evaluated on the CPU for one
sequence, node by node; weights are read when they are needed and dropped, so that memory stays at
the largest matrix. The weights are already those of the scheme: what is measured is what runs.

Some layers' inputs have tokens a hundred times larger than the others (the first token of a text,
before a few `down_proj`). One int8 step for all would round the others to nothing, so such inputs
are left in f16, and only the weight is int8 (`UNBOUNDED`). Codes of E4M3 have exponents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...ir.graph import Graph, Node, Value
from ...ir.interpreter import scalar_tensor
from ...ir.ops import TORCH_DTYPE, Embedding, Linear
from ...ir.roles import Role, State, StepArray
from ...ir.types import DType, Env
from ...weights.formats.registry import dequantize
from ...weights.recipes import Quantize, Recipe
from ...weights.values import RecipeValues
from .precision import UNBOUNDED

LARGEST_OVER_TYPICAL = 8.0
"""Of the tokens' largest magnitudes, the largest over the median: beyond this the median token has
fewer than 16 of the 127 steps."""


def input_ranges(graph: Graph, values: RecipeValues, ids: Sequence[int]) -> dict[str, float]:
    """The largest |x| that each linear layer reads, by its weight's name, over the tokens `ids`.

    `UNBOUNDED` for inputs of int8 layers whose tokens differ too much.
    """
    count = len(ids)
    env: Env = {"T": count, "S": 1, "R": 1, "L": count}
    with torch.no_grad():
        return _Walk(graph, values, env).run(first_inputs(graph, ids))


def first_inputs(graph: Graph, ids: Sequence[int]) -> dict[Value, torch.Tensor]:
    """One slot that holds nothing yet, and logits for the last token."""
    count = len(ids)
    known: dict[Role | None, torch.Tensor] = {
        StepArray.TOKEN_IDS: torch.tensor(ids, dtype=torch.int32),
        StepArray.POSITIONS: torch.arange(count, dtype=torch.int32),
        StepArray.START: torch.zeros(1, dtype=torch.int32),
        StepArray.LOGITS_ROWS: torch.tensor([count - 1], dtype=torch.int32),
    }
    tensors = {}
    for value in graph.inputs:
        if isinstance(value.role, State):
            _, heads, _, width = value.type.shape
            dtype = TORCH_DTYPE[value.type.dtype]
            tensors[value] = torch.zeros((1, heads, count, width), dtype=dtype)  # type: ignore[arg-type]
        else:
            tensors[value] = known[value.role]
    return tensors


class _Walk:
    """One evaluation that keeps a value until its last reader has run."""

    def __init__(self, graph: Graph, values: RecipeValues, env: Env) -> None:
        self.graph, self.values, self.env = graph, values, env
        self.last = {v: node for node in graph.nodes for v in node.inputs}
        self.ranges: dict[str, float] = {}

    def run(self, known: dict[Value, torch.Tensor]) -> dict[str, float]:
        """Evaluate all but the head, whose product nothing is measured on."""
        for node in self.graph.nodes:
            if isinstance(node.op, Linear):
                self._record(node, known)
            if not isinstance(node.op, Linear) or any(v in self.last for v in node.outputs):
                self._evaluate(node, known)
        return self.ranges

    def _record(self, node: Node, known: dict[Value, torch.Tensor]) -> None:
        x, weight = node.inputs[0], node.inputs[1]
        tokens = known[x].flatten(0, -2).abs().amax(-1)
        most = float(tokens.max())
        if weight.type.dtype is DType.I8C and most > LARGEST_OVER_TYPICAL * float(tokens.median()):
            most = UNBOUNDED
        self.ranges[weight.name] = max(most, self.ranges.get(weight.name, 0.0))

    def _evaluate(self, node: Node, known: dict[Value, torch.Tensor]) -> None:
        if isinstance(node.op, Embedding) and node.inputs[0].is_constant:
            results = (self._rows(node.inputs[0], known[node.inputs[1]]),)
        else:
            operands = [known[v] if v in known else self._constant(v) for v in node.inputs]
            result = node.op.bind(self.env).reference(*operands)
            results = result if isinstance(result, tuple) else (result,)
        known.update(zip(node.outputs, results, strict=True))
        for value in node.inputs:
            if self.last.get(value) is node:
                known.pop(value, None)

    def _constant(self, value: Value) -> torch.Tensor:
        literal = scalar_tensor(value)
        if literal is not None:
            return literal
        shape = [d for d in value.type.shape if isinstance(d, int)]
        array = _float_rows(self.values, value.recipe, 0, None).reshape(shape)
        dtype = TORCH_DTYPE.get(value.type.dtype, torch.float32)
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    def _rows(self, table: Value, ids: torch.Tensor) -> torch.Tensor:
        """Rows of an embedding table, one by one: it may be the largest matrix of all."""
        rows = {i: _float_rows(self.values, table.recipe, i, i + 1)[0] for i in set(ids.tolist())}
        return torch.from_numpy(np.stack([rows[i] for i in ids.tolist()])).float()


def _float_rows(values: RecipeValues, recipe: Recipe, start: int, stop: int | None) -> np.ndarray:
    if isinstance(recipe, Quantize):
        return dequantize(values.quantized_rows(recipe, recipe.format, start, stop))
    return values.rows(recipe, start, stop)
