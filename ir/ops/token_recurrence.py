"""The recurrence that is known by what it does with one token: its body is run on one by one.

Any state that a model carries from token to token can be said so; forms that have kernels of their
own (`recurrence.py`, `convolution.py`) are found among bodies by `passes/raise_mixers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from ..types import DType, TensorType
from .base import require
from .body import OpBody
from .stateful import Mixer, Tensors, Update


@dataclass(frozen=True)
class Recurrence(Mixer):
    """Token inputs [T, …], constants → results [T, …], by `body` on one token after the other.

    The body is written for T tokens and run with T = 1. Its inputs are the op's, then `carried`
    states f32[T, …]; what leaves it are the states after the token, then the op's results. A
    sequence keeps all states behind one another, flat. `tokens`: how many inputs have rows.
    """

    parts = ("carried",)

    body: OpBody
    tokens: int
    carried: int = 1

    @property
    def rows(self) -> int:
        return self.tokens

    def results(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        given, states = self.body.inputs[: -self.carried], self.body.inputs[-self.carried :]
        require(inputs == given, f"{self} of {inputs}, not {given}")
        results = self.body.results
        require(results[: self.carried] == states, f"{self}: states {states} become {results}")
        require(all(s.dtype == DType.F32 for s in states), f"{self} carries {states}")
        return results[self.carried :]

    def state_shapes(self, *inputs: TensorType) -> tuple[tuple[int, ...], ...]:
        return ((sum(map(prod, self.carried_shapes)),),)

    @property
    def carried_shapes(self) -> list[tuple[int, ...]]:
        """Of each state, the shape without tokens."""
        states = self.body.inputs[-self.carried :]
        return [tuple(d for d in s.shape if isinstance(d, int)) for s in states]

    def advance(self, inputs: Tensors, state: Tensors) -> tuple[torch.Tensor | Tensors, Tensors]:
        shapes = self.carried_shapes
        parts = state[0].split([prod(shape) for shape in shapes])
        states = [part.reshape(1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        rows, constants = inputs[: self.rows], inputs[self.rows :]
        body = self.body.bind({"T": 1})
        results: list[list[torch.Tensor]] = []
        for t in range(len(rows[0])):
            after = body.run([*(x[t : t + 1] for x in rows), *constants, *states])
            states = after[: self.carried]
            results.append(after[self.carried :])
        joined = tuple(torch.cat(each) for each in zip(*results, strict=True))
        return joined, (torch.cat([s.reshape(-1) for s in states]),)


class RecurrenceUpdate(Update, Recurrence):
    """`Recurrence` of this step's tokens; state carried f32[N, numbers]."""
