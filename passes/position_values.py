"""What a value is that depends on positions alone, for chosen tokens of a sequence.

In: a value of a graph in phase TRACED, such as a mask [1, T, T] or a bias [H, 1, T], and for each
of its token dimensions the tokens asked for. Out: its numbers at these. Models build masks in many
ways (`tril` buffers, ranges, comparisons), so that they are not recognised but evaluated; and since
a mask of all pairs of tokens would take gigabytes for long contexts, only the pairs asked for are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..ir.graph import Node, Value
from ..ir.interpreter import scalar_tensor
from ..ir.ops import (
    TORCH_DTYPE,
    Binary,
    Cast,
    CausalMask,
    Concat,
    Embedding,
    Expand,
    Full,
    Iota,
    Op,
    Permute,
    Reshape,
    Slice,
    TokenCount,
    Unary,
    Where,
)
from ..ir.ops.attention import additive_mask
from ..ir.parser import Opaque
from ..ir.recipe import CheckpointTensor, Recipe
from ..ir.roles import StepArray
from ..ir.types import Sym
from ..weights.values import RecipeValues

Places = Mapping[int, torch.Tensor]
"""By dimension, negative: the tokens (i64) asked for along it."""

_KEPT = Unary | Binary | Where | Cast | Expand | Slice | Concat
"""Ops whose operands have their dimensions where the result has them."""


class PositionValues:
    """Evaluates values of a graph for a sequence of `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._constants: dict[Recipe, torch.Tensor] = {}
        self._known: dict[Value, bool] = {}

    def is_known(self, value: Value) -> bool:
        """Whether nothing but positions and numbers known now goes into the value."""
        if value not in self._known:
            node = value.producer
            if any(isinstance(size, Sym) and size.scale != 1 for size in value.type.shape):
                self._known[value] = False
            elif node is not None:
                self._known[value] = _is_local(node) and all(map(self.is_known, node.inputs))
            elif value.is_constant:
                self._known[value] = not _stored(value.recipe)
            else:
                self._known[value] = value.role == StepArray.POSITIONS
        return self._known[value]

    def at(self, value: Value, *tokens: torch.Tensor) -> torch.Tensor:
        """The value, each of its token dimensions cut down to the `tokens` asked for, in order.

        Raises:
            ValueError: it is not defined for these tokens.
        """
        rank = value.type.rank
        dims = [d - rank for d, size in enumerate(value.type.shape) if isinstance(size, Sym)]
        try:
            return self._at(value, dict(zip(dims, tokens, strict=True)))
        except IndexError as error:
            raise ValueError(f"a table of positions ends before {self.tokens} tokens") from error

    def _at(self, value: Value, places: Places) -> torch.Tensor:
        node = value.producer
        if node is None:
            return self._constant(value) if value.is_constant else _as_shaped(value, places)
        op = node.op
        if isinstance(op, CausalMask):
            return _causal(op, value, places)
        if isinstance(op, TokenCount):
            return torch.tensor(self.tokens)
        operands = [self._at(v, _of_operand(node, v, places)) for v in node.inputs]
        result: Any = _restricted(op, value, places).reference(*operands)
        return result.to(TORCH_DTYPE[value.type.dtype])

    def _constant(self, value: Value) -> torch.Tensor:
        literal = scalar_tensor(value)
        if literal is not None:
            return literal
        if value.recipe not in self._constants:
            array = np.array(RecipeValues(_NoCheckpoint()).value(value.recipe))
            tensor = torch.from_numpy(array).to(TORCH_DTYPE[value.type.dtype])
            self._constants[value.recipe] = tensor
        return self._constants[value.recipe]


class _NoCheckpoint:
    """A reader for recipes that read no checkpoint."""

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        raise AssertionError(f"{tensor.name} has no value yet")

    blocks: Any = rows


def _stored(recipe: Recipe) -> bool:
    """Whether values that aren't here are part of the recipe: a checkpoint's, or those that graph
    text leaves out."""
    return isinstance(recipe, CheckpointTensor | Opaque) or any(map(_stored, recipe.args))


def _is_local(node: Node) -> bool:
    """Whether each entry of the result comes from the same tokens of the operands."""
    op = node.op
    if isinstance(op, Reshape):
        return _by_symbol(node.inputs[0]) == _by_symbol(node.output)
    if isinstance(op, Embedding):
        return not isinstance(node.inputs[0].type.shape[0], Sym)
    return isinstance(op, _KEPT | Permute | Full | Iota | CausalMask | TokenCount)


def _by_symbol(value: Value) -> list[int]:
    """How many elements stand before, between and behind the token dimensions."""
    counts, shape = [1], value.type.shape
    for size in shape:
        if isinstance(size, Sym):
            counts[-1] *= size.scale
            counts.append(1)
        else:
            counts[-1] *= size
    return counts


def _of_operand(node: Node, operand: Value, places: Places) -> Places:
    """The tokens to ask of an operand."""
    op, shape = node.op, operand.type.shape
    dims = [d - len(shape) for d, size in enumerate(shape) if isinstance(size, Sym)]
    if isinstance(op, Permute):
        return {op.dims[d]: tokens for d, tokens in places.items()}
    if isinstance(op, Reshape):
        return dict(zip(dims, [places[d] for d in sorted(places)], strict=True))
    if isinstance(op, Embedding) and operand is node.inputs[1]:
        return {d: places[d - 1] for d in dims}
    return {d: places[d] for d in dims}


def _restricted(op: Op, value: Value, places: Places) -> Op:
    """The op with the sizes asked for in place of symbolic ones."""
    if isinstance(op, Reshape | Expand | Full):
        return replace(op, shape=_sizes(value, places))
    return op


def _sizes(value: Value, places: Places) -> tuple[int, ...]:
    rank, shape = value.type.rank, enumerate(value.type.shape)
    return tuple(len(places[d - rank]) if isinstance(n, Sym) else n for d, n in shape)


def _as_shaped(value: Value, places: Places) -> torch.Tensor:
    """Positions: those asked for."""
    (tokens,) = places.values()
    return tokens.to(TORCH_DTYPE[value.type.dtype]).reshape(_sizes(value, places))


def _causal(op: CausalMask, value: Value, places: Places) -> torch.Tensor:
    mask = additive_mask(places[-2], places[-1], op.window)
    return mask.expand(_sizes(value, places))


def telling_positions(span: int, *sizes: int) -> tuple[torch.Tensor, list[int]]:
    """Positions below `span` that tell masks over windows or chunks of `sizes` tokens apart.

    The first are for pairs of each with each, the second for queries whose keys are all looked at:
    a mask of all pairs would take gigabytes for a window of some thousand tokens.
    """
    edges = {k * n + d for n in sizes for k in range(5) for d in (-2, -1, 0, 1, 2)}
    some = {*range(64), *range(0, span, max(1, span // 64)), *edges, span - 1}
    pairs = torch.tensor(sorted(p for p in some if 0 <= p < span))
    whole = [p for n in sizes for p in (n - 1, n, 2 * n - 1, 2 * n, span - 1) if 0 <= p < span]
    return pairs, sorted(set(whole))
