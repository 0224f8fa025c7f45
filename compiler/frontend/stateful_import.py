"""`llmc::` operators with a state of fixed size → the IR's mixers.

A trace has a batch of one sequence before the tokens, [1, T, …]; mixers take [T, …].
"""

from __future__ import annotations

from ...ir import ops
from ...ir.graph import Value
from ...ir.ops.stateful import Mixer
from ...ir.types import Sym
from .aten_base import Builder, Handlers, reshape

HANDLERS = Handlers()


def mix(b: Builder, op: Mixer, rows: list[Value], constants: list[Value]) -> Value:
    """`op` of [1, T, …] rows, its result as they are."""
    for value in rows:
        if value.type.shape[0] != 1 or not isinstance(value.type.shape[1], Sym):
            raise TypeError(f"{op.mnemonic} of {value.type}, not of one sequence")
    y = b.emit(op, *(reshape(b, v, v.type.shape[1:]) for v in rows), *constants)
    return reshape(b, y, (1, *y.type.shape))


@HANDLERS.of("causal_conv")
def causal_conv(b: Builder, x: Value, weight: Value, bias: Value | None, silu: bool) -> Value:
    """x [1, T, C], weight [C, K], bias [C]."""
    op = ops.CausalConv(bias is not None, silu)
    return mix(b, op, [x], [weight] if bias is None else [weight, bias])


@HANDLERS.of("linear_recurrence")
def _linear_recurrence(
    b: Builder, q: Value, k: Value, v: Value, decay: Value, beta: Value | None
) -> Value:
    rest = [] if beta is None else [beta]
    return mix(b, ops.LinearRecurrence(bool(rest)), [q, k, v, decay, *rest], [])


@HANDLERS.of("selective_scan")
def _selective_scan(b: Builder, x: Value, dt: Value, b_: Value, c: Value, a: Value) -> Value:
    return mix(b, ops.SelectiveScan(), [x, dt, b_, c], [a])
