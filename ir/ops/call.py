"""Calls to a body: how repeated layers are rolled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..phase import Phase
from ..types import TensorType
from .base import Op


@dataclass(frozen=True)
class Call(Op):
    """Run the graph `body` of the enclosing graph's `bodies` on the inputs.

    `results` are the types of the body's outputs; a body's pools are written in place.
    The interpreter evaluates calls itself, since only it knows the bodies.
    """

    first_phase = Phase.SERVING
    has_effect = True

    body: str
    results: tuple[TensorType, ...] = ()

    def attributes(self) -> dict:
        return {"body": self.body}

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return self.results

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise TypeError("a call is evaluated by the interpreter")
