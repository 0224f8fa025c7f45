"""ATen → IR: complex numbers, as pairs of reals.

The IR has real numbers only. A complex tensor of the trace is two values of one shape here, and
what models do with one is said in arithmetic of these: rotary embeddings multiply pairs of a head's
elements by unit numbers (`polar`, `view_as_complex`), which `raise_rotary` finds again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...ir import ops
from ...ir.graph import Value
from ...ir.types import Sym, TensorType
from . import aten_elementwise, aten_reduction, aten_shape
from .aten_base import Builder, Handler, Handlers, binary, reshape


@dataclass(frozen=True)
class Complex:
    """A complex tensor: real and imaginary parts of one type."""

    real: Value
    imag: Value

    @property
    def type(self) -> TensorType:
        """Of each part."""
        return self.real.type


HANDLERS = Handlers()
"""From reals to complex numbers, and back."""
_ARITHMETIC = Handlers()
"""Operators that mean something else for complex numbers."""
_BY_PARTS = {
    "view", "reshape", "_unsafe_view", "_reshape_copy", "view_as", "reshape_as", "unsqueeze",
    "squeeze", "flatten", "unflatten", "permute", "transpose", "swapaxes", "t", "expand",
    "expand_as", "repeat", "slice", "narrow", "select", "split", "split_with_sizes", "chunk",
    "unbind", "cat", "concat", "stack", "alias", "clone", "contiguous", "detach", "detach_",
    "lift_fresh_copy", "_assert_tensor_metadata", "neg", "negative", "sum", "mean",
}  # fmt: skip
"""Operators that do the same to each part."""
_REAL: dict[str, Handler] = {
    **aten_elementwise.HANDLERS, **aten_shape.HANDLERS, **aten_reduction.HANDLERS
}  # fmt: skip


def complex_handler(name: str) -> Handler | None:
    """The handler of `aten::<name>` with a complex argument; None if there is none."""
    if name in HANDLERS:
        return HANDLERS[name]
    if name in _BY_PARTS:
        return partial(_by_parts, _REAL[name])
    return _ARITHMETIC.get(name)


def is_complex(argument: Any) -> bool:
    """Whether an argument of a call is a complex tensor, or a list that holds one."""
    return isinstance(argument, Complex) or (
        isinstance(argument, list) and any(map(is_complex, argument))
    )


def complex_of(tensor: torch.Tensor, made: Callable[[torch.Tensor], Value]) -> Complex:
    """A complex tensor whose values are known, each part as `made` makes it."""
    return Complex(made(tensor.real.contiguous()), made(tensor.imag.contiguous()))


def _by_parts(handler: Handler, b: Builder, *args: Any, **kwargs: Any) -> Any:
    sides = []
    for side in ("real", "imag"):
        part = partial(_part, side)
        sides.append(handler(b, *map(part, args), **{k: part(v) for k, v in kwargs.items()}))
    real, imag = sides
    if isinstance(real, tuple):
        return tuple(Complex(r, i) for r, i in zip(real, imag, strict=True))
    return Complex(real, imag)


def _part(side: str, argument: Any) -> Any:
    if isinstance(argument, Complex):
        return getattr(argument, side)
    if isinstance(argument, list) and is_complex(argument):
        if not all(map(is_complex, argument)):
            raise TypeError("joins complex numbers and reals")
        return [_part(side, x) for x in argument]
    return argument


# ── to complex numbers and back ────────────────────────────────────────────────────────


@HANDLERS.of("complex")
def _complex(b: Builder, real: Value, imag: Value) -> Complex:
    return Complex(real, imag)


@HANDLERS.of("polar")
def _polar(b: Builder, length: Value, angle: Value) -> Complex:
    cos, sin = (b.emit(ops.Unary(fn), angle) for fn in ("cos", "sin"))
    return Complex(binary(b, "mul", length, cos), binary(b, "mul", length, sin))


@HANDLERS.of("view_as_complex")
def _view_as_complex(b: Builder, x: Value) -> Complex:
    """Pairs [..., n, 2] are the even and odd elements of [..., 2n], as rotary patterns have it."""
    *before, count, _ = x.type.shape
    if isinstance(count, Sym):
        return Complex(*aten_shape.HANDLERS["unbind"](b, x, -1))
    wide = reshape(b, x, [*before, 2 * count])
    return Complex(*(b.emit(ops.Slice(-1, lane, 2 * count, 2), wide) for lane in (0, 1)))


@HANDLERS.of("view_as_real")
def _view_as_real(b: Builder, x: Complex) -> Value:
    return aten_shape.HANDLERS["stack"](b, [x.real, x.imag], -1)


@HANDLERS.of("real")
def _real(b: Builder, x: Complex | Value) -> Value:
    return x.real if isinstance(x, Complex) else x


@HANDLERS.of("imag")
def _imag(b: Builder, x: Complex) -> Value:
    return x.imag


# ── arithmetic ─────────────────────────────────────────────────────────────────────────


@_ARITHMETIC.of("mul", "multiply")
def _mul(b: Builder, x: Any, y: Any) -> Complex:
    if not (isinstance(x, Complex) and isinstance(y, Complex)):
        return _with_real("mul", b, x, y)
    real = binary(b, "sub", binary(b, "mul", x.real, y.real), binary(b, "mul", x.imag, y.imag))
    imag = binary(b, "add", binary(b, "mul", x.imag, y.real), binary(b, "mul", x.real, y.imag))
    return Complex(real, imag)


@_ARITHMETIC.of("div", "divide", "true_divide")
def _div(b: Builder, x: Any, y: Any) -> Complex:
    if isinstance(y, Complex):
        raise TypeError("divides by a complex number")
    return _with_real("div", b, x, y)


@_ARITHMETIC.of("add", "sub")
def _add(b: Builder, x: Any, y: Any, alpha: Any = 1, fn: str = "add") -> Complex:
    if not (isinstance(x, Complex) and isinstance(y, Complex)) or alpha != 1:
        raise TypeError("adds complex numbers and reals, or multiples of them")
    return Complex(binary(b, fn, x.real, y.real), binary(b, fn, x.imag, y.imag))


_ARITHMETIC["sub"] = lambda b, x, y, alpha=1: _add(b, x, y, alpha, "sub")


def _with_real(fn: str, b: Builder, x: Any, y: Any) -> Complex:
    """A product or quotient of which one operand is real, a tensor or a number."""
    if any(isinstance(a, complex) for a in (x, y)):
        raise TypeError("computes with a complex literal")
    pairs = ((_part(side, x), _part(side, y)) for side in ("real", "imag"))
    return Complex(*(binary(b, fn, *pair) for pair in pairs))


@_ARITHMETIC.of("conj", "_conj", "conj_physical", "_conj_physical")
def _conj(b: Builder, x: Complex) -> Complex:
    return Complex(x.real, b.emit(ops.Unary("neg"), x.imag))


@_ARITHMETIC.of("resolve_conj", "resolve_neg")
def _same(b: Builder, x: Complex) -> Complex:
    return x


@_ARITHMETIC.of("abs", "absolute")
def _abs(b: Builder, x: Complex) -> Value:
    squares = (b.emit(ops.Unary("square"), part) for part in (x.real, x.imag))
    return b.emit(ops.Unary("sqrt"), binary(b, "add", *squares))


@_ARITHMETIC.of("angle")
def _angle(b: Builder, x: Complex) -> Value:
    return binary(b, "atan2", x.imag, x.real)


@_ARITHMETIC.of("_to_copy", "to")
def _to_copy(b: Builder, x: Complex, *args: Any, dtype: Any = None, **_: Any) -> Complex:
    """Single precision is the only one; devices don't matter."""
    kinds = [a for a in (dtype, *args) if isinstance(a, torch.dtype)]
    if any(kind not in (torch.complex64, torch.complex128) for kind in kinds):
        raise TypeError("drops imaginary parts")
    return x
