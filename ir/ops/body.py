"""A small computation as the attribute of an op: what an op does that nobody wrote a kernel for.

A body is a list of ops on numbered values: first its inputs, then the results of its ops in order.
It is a value itself, so that two ops with equal bodies are equal. `ir/bodies.py` makes a graph of
it and one of a graph; graph text has bodies as graphs before the one whose ops name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..recipe import Scalar
from ..types import Env, TensorType, infer_types
from .base import TORCH_DTYPE, Op, require


@dataclass(frozen=True)
class BodyOp:
    """One op: its operands are numbers of values, or literal scalars."""

    op: Op
    operands: tuple[int | Scalar, ...]


@dataclass(frozen=True, repr=False)
class OpBody:
    """`inputs`: types of values 0, 1, …; `outputs`: which values leave."""

    inputs: tuple[TensorType, ...]
    ops: tuple[BodyOp, ...]
    outputs: tuple[int, ...]

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of all values.

        Raises:
            TypeError, ValueError: an op doesn't take its operands.
        """
        known = list(self.inputs)
        for each in self.ops:
            types = (o.type if isinstance(o, Scalar) else known[o] for o in each.operands)
            known += infer_types(each.op, tuple(types))
        return tuple(known)

    @property
    def results(self) -> tuple[TensorType, ...]:
        """The types of what leaves."""
        types = self.types
        return tuple(types[number] for number in self.outputs)

    def bind(self, env: Env) -> OpBody:
        """The body whose ops have the symbols in their attributes replaced by numbers."""
        bound = (BodyOp(each.op.bind(env), each.operands) for each in self.ops)
        return OpBody(self.inputs, tuple(bound), self.outputs)

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What leaves, for these inputs; symbols must have been bound."""
        require(len(inputs) == len(self.inputs), f"{self} of {len(inputs)} inputs")
        known = list(inputs)
        for each in self.ops:
            operands = (
                torch.tensor(o.value, dtype=TORCH_DTYPE[o.of])
                if isinstance(o, Scalar)
                else known[o]
                for o in each.operands
            )
            result = each.op.reference(*operands)
            known += result if isinstance(result, tuple) else (result,)
        return [known[number] for number in self.outputs]

    def __repr__(self) -> str:
        return f"OpBody(of {len(self.ops)} ops)"
