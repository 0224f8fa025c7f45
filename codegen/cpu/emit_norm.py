"""Normalization: calls of `kernels/norm.h`, with residual sum and row quantization."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops import Norm
from .emit_linear import quantize_into
from .function import Function, call, float_literal
from .layout import View
from .operands import Matrix, matrix, takes_place_of, try_matrix


def emit_norm(fn: Function, node: Node) -> None:
    op = node.op
    assert isinstance(op, Norm)
    x, residual, weight, bias = op.split(node.inputs)
    vectors = [fn.view(v) for v in (weight, bias) if v is not None]
    outputs = list(node.outputs)
    total = fn.result(outputs.pop(0)) if op.add else None
    if op.quantize:
        y, codes = fn.fresh(x.type), [fn.result(v) for v in outputs]
    else:
        y, codes = fn.result(outputs[0]), []
    tail = _tail(fn, op, weight, bias)
    if residual is not None and total is not None:
        _emit_add(fn, op, (fn.view(x), fn.view(residual)), (total, y), tail, vectors)
    else:
        _emit_plain(fn, op, fn.view(x), y, tail, vectors)
    if codes:
        quantize_into(fn, y, codes)


def _tail(fn: Function, op: Norm, weight, bias) -> list[str]:
    """Weight, bias and epsilon as the kernels take them."""
    if op.fn == "rms_norm":
        if bias is not None:
            raise fn.refuse("rms_norm with a bias")
        return [fn.vector(weight), float_literal(op.eps)]
    return [fn.vector(weight), fn.vector(bias), float_literal(op.eps)]


def _emit_plain(
    fn: Function, op: Norm, x: View, y: View, tail: list[str], vectors: list[View]
) -> None:
    width = x.shape[-1]
    assert isinstance(width, int)
    rows = try_matrix(x)
    by_heads = None if rows or len(x.shape) < 3 else try_matrix(x, keep=2)
    if by_heads is not None:
        target = matrix(fn, y, keep=2)
        heads = x.shape[-2]
        line = call(
            f"{op.fn}_heads", by_heads.rows, heads, width, by_heads.pointer, by_heads.stride,
            *tail, target.pointer, target.stride,
        )  # fmt: skip
        return fn.step([line], [x, *vectors], [y])
    source, target = rows or matrix(fn, x), matrix(fn, y)
    line = call(
        op.fn, source.rows, width, source.pointer, source.stride, *tail,
        target.pointer, target.stride,
    )  # fmt: skip
    pairs = [(y, source.view)] if takes_place_of(y, source.view) else []
    return fn.step(
        [line],
        [source.view, *vectors],
        [y],
        in_place=pairs,
        rowwise=source.is_token_rows,
    )


def _emit_add(
    fn: Function,
    op: Norm,
    operands: tuple[View, View],
    results: tuple[View, View],
    tail: list[str],
    vectors: list[View],
) -> None:
    width = operands[0].shape[-1]
    assert isinstance(width, int)
    x, r = (matrix(fn, v) for v in operands)
    total, y = (matrix(fn, v) for v in results)
    line = call(
        f"add_{op.fn}", x.rows, width, *_place(x), *_place(r), *_place(total), *tail, *_place(y)
    )
    pairs = [(total.view, m.view) for m in (x, r) if takes_place_of(total.view, m.view)]
    fn.step(
        [line],
        [x.view, r.view, *vectors],
        [total.view, y.view],
        in_place=pairs,
        rowwise=x.is_token_rows,
    )


def _place(m: Matrix) -> tuple[str, int]:
    return m.pointer, m.stride
