"""Updates of what sequences keep in slots: calls of the kernels of convolution and recurrences."""

from __future__ import annotations

from math import prod

from ...ir.graph import Node, Value
from ...ir.ops import CausalConvUpdate, LinearRecurrenceUpdate, SelectiveScanUpdate
from ...ir.ops.stateful import Update
from ...ir.types import DType
from .. import views
from ..views import View
from .emit_movement import as_dtype, dense
from .emitters import emits
from .function import Function, Pool, call
from .operands import Matrix, matrix, vector
from .traffic import Traffic

_WIDEST_FILTER = 64
_MOST_ROWS = 8192
"""Of a tile 16 columns wide that a thread's scratch memory must hold (kernels/slots.h, team.h)."""


@emits(CausalConvUpdate)
def causal_conv(fn: Function, node: Node, op: CausalConvUpdate) -> None:
    (x_value, weight, *biases), part = mixer_operands(fn, node, op)
    channels, width = _sizes(weight)
    if width > _WIDEST_FILTER:
        raise fn.refuse(f"a filter of {width} tokens (at most {_WIDEST_FILTER})")
    x, (filters, stored) = matrix(fn, fn.view(x_value)), _columns(fn, weight)
    bias, bias_views = vector(fn, biases[0] if op.bias else None)
    y = matrix(fn, fn.result(node.outputs[-1]))
    line = call(
        "causal_conv", "s.batch", part.expression, channels, width, x.pointer, x.stride,
        filters, bias, op.silu, y.pointer, y.stride,
    )  # fmt: skip
    _step(fn, node, op, line, [x.view, stored, *bias_views], y, part)


@emits(LinearRecurrenceUpdate)
def linear_recurrence(fn: Function, node: Node, op: LinearRecurrenceUpdate) -> None:
    values, part = mixer_operands(fn, node, op)
    q, k, v = (matrix(fn, fn.view(value), keep=2) for value in values[:3])
    by_channel = values[3].type.rank == 3
    decay = matrix(fn, fn.view(values[3]), keep=2 if by_channel else 1)
    betas = [matrix(fn, fn.view(value)) for value in values[4:]]
    (groups, key), (heads, width) = _sizes(values[0]), _sizes(values[2])
    if key > _MOST_ROWS:
        raise fn.refuse(f"keys of {key} elements (at most {_MOST_ROWS})")
    y = matrix(fn, fn.result(node.outputs[-1]), keep=2)
    beta = (betas[0].pointer, betas[0].stride) if betas else ("nullptr", 0)
    line = call(
        "linear_recurrence", "s.batch", part.expression, groups, heads, key, width,
        q.pointer, q.stride, k.pointer, k.stride, v.pointer, v.stride,
        decay.pointer, decay.stride, by_channel, *beta, y.pointer, y.stride,
    )  # fmt: skip
    _step(fn, node, op, line, [m.view for m in (q, k, v, decay, *betas)], y, part)


@emits(SelectiveScanUpdate)
def selective_scan(fn: Function, node: Node, op: SelectiveScanUpdate) -> None:
    values, part = mixer_operands(fn, node, op)
    x, dt, b, c = (matrix(fn, fn.view(value)) for value in values[:4])
    rates, stored = _columns(fn, values[4])
    channels, numbers = _sizes(values[4])
    if numbers > _MOST_ROWS:
        raise fn.refuse(f"{numbers} numbers a channel (at most {_MOST_ROWS})")
    y = matrix(fn, fn.result(node.outputs[-1]))
    line = call(
        "selective_scan", "s.batch", part.expression, channels, numbers,
        x.pointer, x.stride, dt.pointer, dt.stride, b.pointer, b.stride, c.pointer, c.stride,
        rates, y.pointer, y.stride,
    )  # fmt: skip
    _step(fn, node, op, line, [*(m.view for m in (x, dt, b, c)), stored], y, part)


def mixer_operands(fn: Function, node: Node, op: Update) -> tuple[tuple[Value, ...], Pool]:
    """What the mixer takes, and its one part."""
    given, (state,) = op.operands(node.inputs)
    if state not in fn.pools:
        raise fn.refuse("a state that is no input of the graph")
    return given, fn.pools[state]


def _step(
    fn: Function, node: Node, op: Update, line: str, reads: list[View], y: Matrix, part: Pool
) -> None:
    """The call, which moves the state of each sequence in and out."""
    given, _ = op.operands(node.inputs)
    floats = sum(prod(shape) for shape in op.state_shapes(*(v.type for v in given)))
    moved = [Traffic(2 * 4 * floats, "S")]
    fn.step([line], reads, [y.view], extra=((), (part.buffer,)), traffic=moved)
    fn.pools[node.outputs[0]] = part


def _columns(fn: Function, value: Value) -> tuple[str, View]:
    """[A, B] as rows [B, A] without gaps: stored so if it is a constant."""
    view = fn.columns(value)
    if view is None:
        view = dense(fn, views.permute(fn.view(value), (1, 0)))
    view = as_dtype(fn, view, DType.F32)
    return view.pointer, view


def _sizes(value: Value) -> list[int]:
    """The dimensions behind the tokens', or all of a constant's."""
    return [dim for dim in value.type.shape if isinstance(dim, int)]
