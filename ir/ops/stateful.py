"""Mixers whose memory of a sequence doesn't grow: what they have in common.

A *mixer* maps rows of one whole sequence, from its first token on (phases up to QUANTIZED). It is
lowered to its *update*, which goes on from what slots hold:

    y = mixer(rows…, constants…)
    state…, y = mixer_update(rows…, constants…, state…, query_start, context_len, state_slot)

A slot is a sequence's own: sequence s of a step has row `state_slot[s]` of every state tensor. A
sequence whose query tokens begin at position 0 finds zeros there, whatever the slot held before.
Rows are taken one after the other in one order of arithmetic, so that a sequence gives the same
bits however its tokens are split into steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..phase import Phase
from ..types import DType, TensorType
from .attention import query_spans
from .base import Op, require

Tensors = tuple[torch.Tensor, ...]

STEP_INPUTS = 3
"""query_start i32[S + 1], context_len i32[S], state_slot i32[S]: the last inputs of an update."""


@dataclass(frozen=True)
class Mixer(Op, abstract=True):
    """Base of the mixers with a state of fixed size."""

    last_phase = Phase.QUANTIZED
    mixes_tokens = True

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that a sequence keeps, in f32."""

    @property
    def rows(self) -> int:
        """How many of the inputs, the first ones, have a row for each token."""
        raise NotImplementedError(type(self).__name__)

    def result(self, *inputs: TensorType) -> TensorType:
        """The type of the result.

        Raises:
            TypeError: these inputs are not what the mixer takes.
        """
        raise NotImplementedError(type(self).__name__)

    def state_shapes(self, *inputs: TensorType) -> tuple[tuple[int, ...], ...]:
        """Of each part, the shape of what one sequence keeps."""
        raise NotImplementedError(type(self).__name__)

    def results(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The types of all results: mostly there is one."""
        return (self.result(*inputs),)

    def advance(self, inputs: Tensors, state: Tensors) -> tuple[torch.Tensor | Tensors, Tensors]:
        """The results for further rows of a sequence that has come to `state`, its new state."""
        raise NotImplementedError(type(self).__name__)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return self.results(*inputs)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor | Tensors:
        types = [TensorType(DType.F32, tuple(x.shape)) for x in inputs]
        zeros = tuple(torch.zeros(shape) for shape in self.state_shapes(*types))
        return self.advance(inputs, zeros)[0]


class Update(Mixer, abstract=True):
    """Base of the updates; stands before the mixer among the bases of one."""

    first_phase = Phase.QUANTIZED
    last_phase = Phase.SERVING

    def __init_subclass__(cls, mnemonics: tuple[str, ...] = (), abstract: bool = False) -> None:
        super().__init_subclass__(mnemonics, abstract)
        cls.in_place = tuple(range(-STEP_INPUTS - len(cls.parts), -STEP_INPUTS))

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        given, states = self.operands(inputs)
        shapes = list(self.state_shapes(*given))
        require([s.shape[1:] for s in states] == shapes, f"{self}: state {states}, not {shapes}")
        return (*states, *self.results(*given))

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor | Tensors:
        given, states = self.operands(inputs)
        query_start, context_len, state_slot = inputs[-STEP_INPUTS:]
        states = [state.clone() for state in states]
        results = []
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            slot = int(state_slot[s])
            before = [state[slot] for state in states]
            if end == b - a:
                before = [torch.zeros_like(state) for state in before]
            own = (x[a:b] if i < self.rows else x for i, x in enumerate(given))
            result, after = self.advance(tuple(own), tuple(before))
            results.append(result if isinstance(result, tuple) else (result,))
            for state, new in zip(states, after, strict=True):
                state[slot] = new
        return (*states, *map(torch.cat, zip(*results, strict=True)))

    def operands(self, inputs: tuple) -> tuple[tuple, tuple]:
        """What the mixer takes, and the state, of all inputs."""
        first = len(inputs) - STEP_INPUTS - len(self.parts)
        return inputs[:first], inputs[first:-STEP_INPUTS]
