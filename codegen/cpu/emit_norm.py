"""Normalization: calls of `kernels/norm.h`, with residual sum and row quantization."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import Norm
from ..views import View
from .emit_linear import MADE, make_rows
from .emitters import emits
from .function import Function, call, float_literal
from .operands import Matrix, matrix, takes_place_of, try_matrix, vector


@emits(Norm)
def norm(fn: Function, node: Node, op: Norm) -> None:
    x, residual, weight, bias = op.split(node.inputs)
    weights, vectors = _weights(fn, op, weight, bias)
    operands = [fn.view(v) for v in (x, residual) if v is not None]
    outputs = [fn.result(v) for v in node.outputs]
    plain = not op.add and not op.quantize
    if plain and _emit_heads(fn, op, operands[0], (weights, vectors), outputs[0]):
        return None
    rows = [matrix(fn, v) for v in operands]
    if op.quantize:
        return _emit_quantized(fn, op, rows, (weights, vectors), outputs)
    totals = [matrix(fn, outputs[0])] if op.add else []
    target = _place(matrix(fn, outputs[-1]))
    places = [part for m in (*rows, *totals) for part in _place(m)]
    name = f"{'add_' if op.add else ''}{op.fn}"
    line = call(name, rows[0].rows, operands[0].shape[-1], *places, *weights, *target)
    fn.step(
        [line],
        [*(m.view for m in rows), *vectors],
        outputs,
        in_place=[(outputs[0], m.view) for m in rows if takes_place_of(outputs[0], m.view)],
        rowwise=rows[0].is_token_rows,
    )
    return None


def _emit_quantized(
    fn: Function,
    op: Norm,
    rows: list[Matrix],
    norm: tuple[list[str], list[View]],
    outputs: list[View],
) -> None:
    """Normalized rows for the linear layers that follow. Not in place: a thread may read what
    another one has added already."""
    weights, vectors = norm
    places = [part for m in rows for part in _place(m)]
    if op.add:
        total = matrix(fn, outputs[0])
        places += [f"made.other({total.pointer})", total.stride]
    results = outputs[1:] if op.add else outputs
    name = f"{'add_' if op.add else ''}{op.fn}_quant"
    width = rows[0].view.shape[-1]
    target = ["nullptr", 0, *MADE]
    line = call(name, rows[0].rows, width, *places, *weights, *target, team="made.team()")
    lines = make_rows(fn, rows[0], results, line)
    fn.step(lines, [*(m.view for m in rows), *vectors], outputs, delivers=results)


def _weights(
    fn: Function, op: Norm, weight: Value | None, bias: Value | None
) -> tuple[list[str], list[View]]:
    """Weight, bias and epsilon as the kernels take them; what of it is read."""
    (weight_pointer, reads), (bias_pointer, more) = vector(fn, weight), vector(fn, bias)
    if op.fn == "rms_norm":
        if bias is not None:
            raise fn.refuse("rms_norm with a bias")
        return [weight_pointer, float_literal(op.eps)], reads
    return [weight_pointer, bias_pointer, float_literal(op.eps)], reads + more


def _emit_heads(
    fn: Function, op: Norm, x: View, norm: tuple[list[str], list[View]], y: View
) -> bool:
    """Normalize heads that lie apart, such as a slice of a merged projection; False if not so."""
    heads = None if try_matrix(x) or x.rank < 3 else try_matrix(x, keep=2)
    if heads is None:
        return False
    weights, vectors = norm
    sizes = (heads.rows, x.shape[-2], x.shape[-1])
    target = matrix(fn, y, keep=2)
    line = call(f"{op.fn}_heads", *sizes, *_place(heads), *weights, *_place(target))
    fn.step([line], [x, *vectors], [y])
    return True


def _place(m: Matrix) -> list[str | int]:
    return [m.pointer, m.stride]
