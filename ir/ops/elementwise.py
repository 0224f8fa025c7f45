"""Elementwise ops: unary and binary functions, select, cast. Broadcasting as in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..types import DType, TensorType, broadcast_shapes
from .base import TORCH_DTYPE, Op, require

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "bitwise_not": torch.bitwise_not,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "elu": F.elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "floor": torch.floor,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "isfinite": torch.isfinite,
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "logical_not": torch.logical_not,
    "mish": F.mish,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "round": torch.round,
    "rsqrt": torch.rsqrt,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": F.softplus,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "trunc": torch.trunc,
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "atan2": torch.atan2,
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
    "bitwise_xor": torch.bitwise_xor,
    "div": torch.true_divide,
    "eq": torch.eq,
    "floor_divide": torch.floor_divide,
    "fmod": torch.fmod,
    "ge": torch.ge,
    "gt": torch.gt,
    "le": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "lt": torch.lt,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "ne": torch.ne,
    "pow": torch.pow,
    "remainder": torch.remainder,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
    "sub": torch.sub,
}
_TO_BOOL = {
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor",
    "logical_not", "isnan", "isinf", "isfinite",
}  # fmt: skip
_FLOAT_RESULT = {
    "cos", "sin", "tan", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "tanh",
    "sigmoid", "erf", "reciprocal", "div", "atan2",
}  # fmt: skip


def promote(a: TensorType, b: TensorType) -> DType:
    """The common element type, by torch's rules (a rank-0 operand doesn't widen its kind)."""
    if a.dtype == b.dtype:
        return a.dtype
    x = torch.empty([1] * min(a.rank, 1), dtype=TORCH_DTYPE[a.dtype], device="meta")
    y = torch.empty([1] * min(b.rank, 1), dtype=TORCH_DTYPE[b.dtype], device="meta")
    common = torch.result_type(x, y)
    return next(d for d, t in TORCH_DTYPE.items() if t == common)


@dataclass(frozen=True)
class Unary(Op, mnemonics=tuple(UNARY)):
    """`y = fn(x)`, see `UNARY`."""

    fn: str

    @property
    def mnemonic(self) -> str:
        return self.fn

    def attributes(self) -> dict[str, Any]:
        return {}

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if self.fn in _TO_BOOL:
            return (x.with_dtype(DType.BOOL),)
        if self.fn in _FLOAT_RESULT and not x.dtype.is_float:
            return (x.with_dtype(DType.F32),)
        return (x,)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return UNARY[self.fn](inputs[0])


@dataclass(frozen=True)
class Binary(Op, mnemonics=tuple(BINARY)):
    """`y = fn(a, b)`, see `BINARY`."""

    fn: str

    @property
    def mnemonic(self) -> str:
        return self.fn

    def attributes(self) -> dict[str, Any]:
        return {}

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        a, b = inputs
        shape = broadcast_shapes(a.shape, b.shape)
        dtype = promote(a, b)
        if self.fn in _TO_BOOL:
            dtype = DType.BOOL
        elif self.fn in _FLOAT_RESULT and not dtype.is_float:
            dtype = DType.F32
        return (TensorType(dtype, shape),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return BINARY[self.fn](*inputs)


@dataclass(frozen=True)
class Where(Op):
    """`y = a where condition else b`."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        condition, a, b = inputs
        require(condition.dtype == DType.BOOL, "where takes a bool condition")
        return (TensorType(promote(a, b), broadcast_shapes(*(t.shape for t in inputs))),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.where(*inputs)


@dataclass(frozen=True)
class Cast(Op):
    """Conversion to `dtype`: floats to ints truncate, to bf16 and f16 round to nearest even."""

    dtype: DType

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (inputs[0].with_dtype(self.dtype),)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].to(TORCH_DTYPE[self.dtype])
