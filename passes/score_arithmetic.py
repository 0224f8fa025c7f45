"""What a model does to attention's scores before the softmax, as scale, window and position bias.

In: the steps from the product of queries and keys to the softmax, each with operands that depend on
positions alone. Whatever their shapes and order, the result is, for a query i and a key j,

    factor[i, j] * score + offset[i, j]

which is evaluated at enough pairs (`position_values.py`) to see what it means: a key is hidden
where its offset is out of reach, and must be hidden as by a causal mask with or without a window;
for all others the factor is the scale, and the offset the bias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..ir.graph import Node, Value
from ..ir.ops import Binary, Cast, Expand, Reshape, Where
from ..ir.types import Sym
from .position_values import PositionValues, telling_positions

HIDDEN = -1e30
"""Masks add or put the least number there is; the sum with a score stays below this."""
FAR = -9e3
"""Some models add -10,000: its exponential is 0 too, if nothing else is added."""
ROUNDING = 1e-6
"""Of the largest bias: what a bias of f32 products may differ from a line."""


@dataclass(frozen=True)
class Step:
    """`node` turned scores into scores; `scores` tells which operand they were."""

    node: Node
    scores: int

    @property
    def others(self) -> list[Value]:
        return [v for i, v in enumerate(self.node.inputs) if i != self.scores]


@dataclass(frozen=True)
class Meaning:
    """`slopes` [H] or [1]: for each token that a key lies behind the query, minus its slope."""

    scale: float
    window: int
    slopes: torch.Tensor | None


class Affine:
    """factor * score + offset, f64, both [..., I, J] or broadcastable to that."""

    def __init__(self, values: PositionValues, i: torch.Tensor, j: torch.Tensor) -> None:
        self.values, self.i, self.j = values, i, j
        self.factor = self.offset = torch.zeros((), dtype=torch.float64)
        self.factor = self.factor + 1

    def apply(self, step: Step) -> None:
        """Apply one step."""
        op, node = step.node.op, step.node
        if isinstance(op, Reshape | Expand):
            self.factor, self.offset = (self._reshaped(x, node) for x in (self.factor, self.offset))
        elif isinstance(op, Where):
            self._select(step)
        elif isinstance(op, Binary):
            (other,) = map(self._known, step.others)
            self._combine(op.fn, other, step.scores == 0)

    def _known(self, value: Value) -> torch.Tensor:
        """A value at the pairs. A single token dimension is the keys' if it is the last."""
        sizes = value.type.shape[-2:]
        tokens = [t for n, t in zip(sizes[::-1], (self.j, self.i), strict=False) if _is_tokens(n)]
        return self.values.at(value, *tokens[::-1]).double()

    def _combine(self, fn: str, other: torch.Tensor, first: bool) -> None:
        if fn == "maximum":  # with the least number there is
            return
        if fn in ("mul", "div"):
            other = other if fn == "mul" else 1 / other
            self.factor, self.offset = self.factor * other, self.offset * other
        elif fn == "add" or first:
            self.offset = self.offset + (other if fn == "add" else -other)
        else:
            self.factor, self.offset = -self.factor, other - self.offset

    def _select(self, step: Step) -> None:
        condition, other = (self._known(v) for v in step.others)
        kept = condition.bool() if step.scores == 1 else ~condition.bool()
        zero = torch.zeros((), dtype=torch.float64)
        self.factor = torch.where(kept, self.factor, zero)
        self.offset = torch.where(kept, self.offset, other)

    def _reshaped(self, x: torch.Tensor, node: Node) -> torch.Tensor:
        """x as the node shapes the scores; numbers that are the same for all heads stay one."""
        if all(n == 1 for n in x.shape[:-2]):
            return x.reshape(x.shape[-2:])
        before, after = ([*v.type.shape[:-2], len(self.i), len(self.j)]
                         for v in (node.inputs[0], node.output))  # fmt: skip
        return x.expand(before).reshape(after)


def _is_tokens(size: object) -> bool:
    return isinstance(size, Sym)


def is_understood(node: Node, scores: int, values: PositionValues) -> bool:
    """Whether the node, whose operand `scores` are the scores, can be a step."""
    op = node.op
    others = [v for i, v in enumerate(node.inputs) if i != scores]
    if isinstance(op, Cast):
        return op.dtype.is_float
    if isinstance(op, Reshape | Expand):
        same = all(v.type.shape[-2:] == node.output.type.shape[-2:] for v in node.inputs)
        return same and all(isinstance(n, int) for n in node.output.type.shape[:-2])
    if not all(map(values.is_known, others)) or any(map(_is_elsewhere, others)):
        return False
    if isinstance(op, Where):
        return scores > 0
    if not isinstance(op, Binary):
        return False
    if op.fn == "maximum":
        return all(v.type.rank == 0 and float(values.at(v)) <= HIDDEN for v in others)
    return op.fn in ("add", "sub", "mul") or (op.fn == "div" and scores == 0)


def _is_elsewhere(value: Value) -> bool:
    """Whether tokens stand in other dimensions than those of queries and keys."""
    return any(map(_is_tokens, value.type.shape[:-2]))


def meaning_of(steps: Iterable[Step], values: PositionValues) -> Meaning | str:
    """What the steps, first ones first, do; or why attention can't do it."""
    return _Evaluation(tuple(steps), values).run()


class _Evaluation:
    def __init__(self, steps: tuple[Step, ...], values: PositionValues) -> None:
        self.steps, self.values = steps, values
        self.window = 0
        self.scale: float | None = None
        self.slopes: torch.Tensor | None = None
        self.bound = 0.0

    def run(self) -> Meaning | str:
        tokens = self.values.tokens
        keys = torch.arange(tokens)
        try:
            reason = self._read_last_row(keys) or self._check(keys)
        except ValueError as error:
            return str(error)
        if reason:
            return reason
        assert self.scale is not None
        return Meaning(self.scale, self.window, self.slopes)

    def _at(self, i: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """factor and offset, [1 or H, I, J]."""
        affine = Affine(self.values, i, j)
        for step in self.steps:
            affine.apply(step)
        pairs = (len(i), len(j))

        def dense(x: torch.Tensor) -> torch.Tensor:
            return x.expand(torch.broadcast_shapes(x.shape, pairs)).reshape(-1, *pairs)

        return dense(affine.factor), dense(affine.offset)

    def _read_last_row(self, keys: torch.Tensor) -> str:
        """Window, scale and slopes, as the last token's row has them."""
        factor, offset = self._at(keys[-1:], keys)
        hidden = _hidden(offset)
        seen = ~hidden[0, 0]
        count = int(seen.sum())
        if not seen[-1]:
            return "a token doesn't see itself"
        self.window = 0 if count == len(keys) else count
        self.scale = float(factor[0, 0, -1])
        bias = offset[:, 0, len(keys) - count :]
        self.bound = ROUNDING * max(1.0, float(bias.abs().max()))
        if count > 1 and float((bias - bias[:, -1:]).abs().max()) > self.bound:
            self.slopes = _slopes(bias)
        return ""

    def _check(self, keys: torch.Tensor) -> str:
        """Compare with pairs of tokens that tell masks and biases apart."""
        pairs, whole = telling_positions(len(keys), self.window or len(keys))
        places = [(pairs, pairs), *((keys[p : p + 1], keys) for p in whole)]
        return next(filter(None, (self._differs(i, j) for i, j in places)), "")

    def _differs(self, i: torch.Tensor, j: torch.Tensor) -> str:
        factor, offset = self._at(i, j)
        distance = i.unsqueeze(1) - j
        seen = (distance >= 0) & (distance < (self.window or self.values.tokens))
        if bool((_hidden(offset) & seen).any()):
            return "the mask hides tokens that neither come later nor lie behind a window"
        if bool((~_hidden(offset) & ~seen).any()):
            later = bool((~_hidden(offset) & (distance < 0)).any())
            return "tokens see later ones" if later else "the mask is no window"
        factor, offset = factor.expand(-1, *seen.shape)[:, seen], offset[:, seen]
        if bool((factor != self.scale).any()):
            return "scores are scaled by numbers that depend on positions"
        slopes = torch.zeros(1, dtype=torch.float64) if self.slopes is None else self.slopes
        line = offset + slopes.unsqueeze(1) * distance[seen]
        rows = torch.arange(len(i)).unsqueeze(1).expand_as(seen)[seen]
        return "" if self._is_flat(line, rows, len(i)) else "the bias is no line over the distance"

    def _is_flat(self, x: torch.Tensor, rows: torch.Tensor, count: int) -> bool:
        """Whether x [H, pairs] differs from row to row only, which a softmax doesn't see."""
        index = rows.expand_as(x)
        edges = [
            torch.zeros(len(x), count, dtype=x.dtype).scatter_reduce(
                1, index, x, fn, include_self=False
            )
            for fn in ("amin", "amax")
        ]
        return float((edges[1] - edges[0]).max()) <= 2 * self.bound


def _hidden(offset: torch.Tensor) -> torch.Tensor:
    """Where nothing that may be added to the offset makes the key count."""
    least = float(offset.min())
    return offset <= (HIDDEN if least <= HIDDEN else min(FAR, least))


def _slopes(bias: torch.Tensor) -> torch.Tensor:
    """The slope of each head, from the bias [H, keys] of one query: a difference that the model's
    own rounding left exact, at the beginning of the keys or at their end."""
    distance = torch.arange(bias.shape[1] - 1, -1, -1)
    line = bias - bias[:, -1:]
    found = [bias[:, 1] - bias[:, 0], bias[:, -1] - bias[:, -2]]
    errors = [float((line + s.unsqueeze(1) * distance).abs().max()) for s in found]
    return found[errors.index(min(errors))]
