"""What the handlers of ATen operators share: the importer's interface, and common steps.

A handler gets the importer and the call's arguments (graph values, numbers, lists) and returns
the result values. Dimensions become negative and scalars become constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Dim, DType, Sym, divide, numel, volume

FROM_TORCH = {t: d for d, t in ops.TORCH_DTYPE.items()} | {torch.float64: DType.F32}
Handler = Callable[..., Any]


class Builder(Protocol):
    """What handlers need of the importer."""

    def emit(self, op: ops.Op, *inputs: Value) -> Value: ...
    def emit_all(self, op: ops.Op, *inputs: Value) -> tuple[Value, ...]: ...
    def value(self, x: Any, like: Value | None = None) -> Value: ...
    def dims(self, shape: Sequence[Any]) -> tuple[Dim, ...]: ...
    def positions(self) -> Value: ...


class Handlers(dict[str, Handler]):
    """Handlers by the name of their operator in the `aten` namespace, whatever the overload."""

    def of(self, *names: str) -> Callable[[Handler], Handler]:
        """Decorator: the function handles `aten::<name>`."""

        def register(handler: Handler) -> Handler:
            self.update(dict.fromkeys(names, handler))
            return handler

        return register


def negative(dim: int, rank: int) -> int:
    return dim if dim < 0 else dim - rank


def binary(b: Builder, fn: str, x: Any, y: Any) -> Value:
    """`fn(x, y)` where either may be a number."""
    x, y = b.value(x, y if isinstance(y, Value) else None), b.value(y, x)
    return b.emit(ops.Binary(fn), x, y)


def cast(b: Builder, x: Value, dtype: DType) -> Value:
    return x if x.type.dtype == dtype else b.emit(ops.Cast(dtype), x)


def missing(whole: Sequence[Dim], known: Sequence[Dim]) -> Dim:
    """The one dimension of `whole` that is left beside those `known`, all taken as products.

    Raises:
        ValueError: what is left is no dimension.
    """
    (count, symbols), (by, others) = volume(whole), volume(known)
    left = list(symbols)
    for name in others:
        if name not in left:
            raise ValueError(f"{tuple(whole)} is not divisible by {tuple(known)}")
        left.remove(name)
    return divide(numel([count, *map(Sym, left)]), by)


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """Reshape with at most one -1."""
    shape = list(shape)
    if -1 in shape:
        known = [d for d in shape if d != -1]
        shape[shape.index(-1)] = missing(x.type.shape, known)
    return x if tuple(shape) == x.type.shape else b.emit(ops.Reshape(tuple(shape)), x)
