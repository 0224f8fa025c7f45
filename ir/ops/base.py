"""The contract of an op: typed attributes, a type rule and a torch reference.

An op is a frozen dataclass. `infer` maps input types to output types and refuses
what the op can't take; `reference` computes the outputs with torch and is the
oracle for every pass and backend. Ops register under their mnemonic, by which the
printer writes and the parser reads them.
"""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any, ClassVar

import torch

from ..phase import Phase
from ..types import DType, Env, Sym, TensorType, bind_dim

TORCH_DTYPE: dict[DType, torch.dtype] = {
    DType.F32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.F16: torch.float16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}

OPS: dict[str, type[Op]] = {}
"""Mnemonic → class; classes with several mnemonics take theirs as the attribute `fn`."""


@dataclasses.dataclass(frozen=True)
class Op:
    """Base of all ops."""

    has_effect: ClassVar[bool] = False
    """True if the op must stay even when nothing reads its outputs."""

    first_phase: ClassVar[Phase] = Phase.TRACED
    last_phase: ClassVar[Phase] = Phase.SERVING
    """The phases whose graphs may hold the op; also one before, whose passes make it."""

    mixes_tokens: ClassVar[bool] = False
    """True if a row of the result depends on other rows than its own, in the same sequence."""

    in_place: ClassVar[tuple[int, ...]] = ()
    """Output i has the memory of operand `in_place[i]`: state that the op updates."""

    def __init_subclass__(cls, mnemonics: tuple[str, ...] = (), abstract: bool = False) -> None:
        if not abstract:
            OPS.update(dict.fromkeys(mnemonics or (snake_case(cls.__name__),), cls))

    @property
    def mnemonic(self) -> str:
        return snake_case(type(self).__name__)

    def attributes(self) -> dict[str, Any]:
        """Attributes that differ from their defaults, for the printer."""
        result = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                result[field.name] = value
        return result

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Output types.

        Raises:
            TypeError, ValueError: these inputs are not what the op takes.
        """
        raise NotImplementedError(type(self).__name__)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute the outputs; symbols must have been bound (`bind`)."""
        raise NotImplementedError(type(self).__name__)

    def bind(self, env: Env) -> Op:
        """This op with the symbols in its attributes replaced by numbers."""
        changes = {
            field.name: tuple(bind_dim(d, env) for d in value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), tuple)
            and any(isinstance(d, Sym) for d in value)
        }
        return dataclasses.replace(self, **changes) if changes else self


@cache
def snake_case(name: str) -> str:
    """`RMSNorm` → `rms_norm`, `TopK` → `top_k`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def require(condition: bool, message: str) -> None:
    """Raise TypeError with `message` unless `condition`."""
    if not condition:
        raise TypeError(message)
