"""Linear layers and embeddings, with weights dequantized by DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...ir.graph import Node, Value
from ...ir.ops import Embedding, Linear
from ...ir.tiles import PANEL
from ...ir.types import DType, Sym
from .constants import ONNX_TYPE, Matrix
from .emit_elementwise import unary
from .emit_movement import slice_of
from .emitters import emits
from .model import Model

Product = Callable[..., ir.Value]
"""What multiplies: `product`, or what a dialect has in its place."""
_FLOATS = (DType.F32, DType.F16, DType.BF16)


@emits(Linear)
def linear(model: Model, node: Node, op: Linear) -> None:
    """`softcap([residual +] act(x Wᵀ + bias))` as one Gemm and what follows it."""
    linear_by(product, model, node, op)


def linear_by(multiply: Product, model: Model, node: Node, op: Linear) -> None:
    """A linear layer whose product `multiply` makes."""
    if op.quantized:
        raise model.refuse("its input comes in int8 blocks")
    (x_value, *_), weight, _, _ = op.split(node.inputs)
    (x,), _, bias, residual = op.split(tuple(operands_but_weight(model, op, node)))
    rows = x_value.type.shape[:-1]
    x = x if len(rows) == 1 else model.reshape(x, (Sym("rows"), x_value.type.shape[-1]))
    y = multiply(model, x, weight, bias)
    y = epilogue(model, op, y, weight_rows(weight))
    if len(rows) != 1:
        y = model.reshape(y, node.output.type.shape)
    if residual is not None:
        y = model.add("Add", y, residual)
    model.result(capped(model, y, op.softcap))


def operands_but_weight(model: Model, op: Linear, node: Node) -> list[ir.Value | None]:
    """The node's inputs; None in place of the weight, which is read in its format."""
    return [None if i == op.num_x else model.operand(value) for i, value in enumerate(node.inputs)]


def weight_rows(weight: Value) -> int:
    """N of a weight [.., N, K]."""
    rows = weight.type.shape[-2]
    assert isinstance(rows, int)
    return rows


def product(
    model: Model, x: ir.Value, weight: Value, bias: ir.Value | None, expert: int | None = None
) -> ir.Value:
    """`x Wᵀ + bias` of x [rows, K], as [rows, N]."""
    if weight.type.dtype in _FLOATS:
        w = float_weight(model, weight, expert)
    else:
        matrix = model.constants.matrix(model, weight, expert)
        x = padded_columns(model, x, matrix)
        w = dequantized(model, matrix)
    inputs = [x, w] if bias is None else [x, w, bias]
    return model.add("Gemm", *inputs, transB=1)


def float_weight(model: Model, weight: Value, expert: int | None = None) -> ir.Value:
    """A weight that isn't quantized, in the node's precision."""
    if not weight.is_constant:
        assert expert is None
        return model.operand(weight)
    w = model.constants.plain(model, weight, expert)
    stored = weight.type.dtype
    return w if stored is model.computes_in else model.cast(w, model.computes_in)


def padded_columns(model: Model, x: ir.Value, matrix: Matrix) -> ir.Value:
    """x with zeros behind its columns, up to whole blocks."""
    missing = matrix.padded - matrix.k
    if not missing:
        return x
    return model.add("Pad", x, model.int64(0, 0, 0, missing))


def dequantized(model: Model, matrix: Matrix) -> ir.Value:
    """The float values [N, Kp] of a quantized matrix."""
    scales = model.in_precision(matrix.scales)
    if matrix.format.per_row:
        return model.add("DequantizeLinear", matrix.codes, scales, axis=0)
    codes = matrix.codes
    if matrix.is_4_bit:
        signed = not matrix.unsigned and matrix.minima is None
        kind = ir.DataType.INT4 if signed else ir.DataType.UINT4
        codes = model.constants.retyped(model, codes, kind, (matrix.n, matrix.padded))
    zeros = [_zero_points(model, matrix)] if matrix.unsigned and matrix.minima is None else []
    block = matrix.format.block
    values = model.add("DequantizeLinear", codes, scales, *zeros, axis=1, block_size=block)
    if matrix.minima is None:
        return values
    minima = model.add("Unsqueeze", model.in_precision(matrix.minima), model.int64(-1))
    blocks = model.add("Reshape", values, model.int64(matrix.n, matrix.blocks, block))
    total = model.add("Add", blocks, minima)
    return model.add("Reshape", total, model.int64(matrix.n, matrix.padded))


def _zero_points(model: Model, matrix: Matrix) -> ir.Value:
    """The same zero point for every block, as DequantizeLinear wants it."""
    zeros = model.add("Expand", _byte(model, matrix.zero), model.int64(matrix.n, matrix.blocks))
    return model.add("Cast", zeros, to=ir.DataType.UINT4.value) if matrix.is_4_bit else zeros


def nibbles(model: Model, packed: ir.Value) -> ir.Value:
    """The 4-bit codes u8 [rows, 2 n] of bytes [rows, n], low half first."""
    low = model.add("BitwiseAnd", packed, _byte(model, 15))
    high = model.add("BitShift", packed, _byte(model, 4), direction="RIGHT")
    last = model.int64(-1)
    pairs = (model.add("Unsqueeze", half, last) for half in (low, high))
    return model.add("Reshape", model.add("Concat", *pairs, axis=-1), model.int64(0, -1))


def epilogue(model: Model, op: Linear, y: ir.Value, weight_rows: int) -> ir.Value:
    """What follows the product of a layer, up to its residual: y [rows, N]."""
    if not op.gated:
        return unary(model, op.act, y) if op.act else y
    count = weight_rows // (2 * PANEL)
    panels = model.add("Reshape", y, model.int64(-1, count, 2, PANEL))
    gate, up = (
        model.add("Gather", panels, model.inline(np.array(i), ir.DataType.INT64), axis=2)
        for i in range(2)
    )
    y = model.add("Mul", unary(model, op.act, gate), up)
    y = model.add("Reshape", y, model.int64(-1, count * PANEL))
    return y if op.out in (0, count * PANEL) else slice_of(model, y, 1, 0, op.out)


def capped(model: Model, y: ir.Value, softcap: float) -> ir.Value:
    """`softcap * tanh(y / softcap)` where there is one."""
    if not softcap:
        return y
    cap = model.number(softcap, DType.F32)
    return model.add("Mul", model.add("Tanh", model.add("Div", y, cap)), cap)


@emits(Embedding)
def embedding(model: Model, node: Node, _: Embedding) -> None:
    """Rows of a table; of a quantized one, the rows are fetched and then dequantized."""
    table, ids_value = node.inputs
    ids = model.operand(ids_value)
    target = model.kind(node.output)
    if table.type.dtype in ONNX_TYPE:
        rows = model.add("Gather", model.read(table), ids, axis=0)
        model.result(rows if table.type.dtype is target else model.cast(rows, target))
        return
    matrix = model.constants.matrix(model, table)
    flat = ids if ids_value.type.rank == 1 else model.add("Reshape", ids, model.int64(-1))
    rows = _table_rows(model, matrix, flat)
    if matrix.padded != matrix.k:
        rows = slice_of(model, rows, 1, 0, matrix.k)
    model.result(model.reshape(rows, node.output.type.shape))


def _table_rows(model: Model, matrix: Matrix, ids: ir.Value) -> ir.Value:
    """Dequantized rows [ids, Kp] of a quantized table."""
    codes = model.add("Gather", matrix.codes, ids, axis=0)
    zero = matrix.zero if matrix.unsigned and matrix.minima is None else 0
    if matrix.is_4_bit:
        codes = nibbles(model, codes)
        if not matrix.unsigned and matrix.minima is None:  # 8 more than they are: -8 becomes 0
            codes, zero = model.add("BitwiseXor", codes, _byte(model, 8)), 8
    values = model.cast(codes, DType.F32)
    if zero:
        values = model.add("Sub", values, model.number(float(zero), DType.F32))
    shape = model.int64(-1, matrix.blocks, matrix.padded // matrix.blocks)
    values = model.add("Reshape", values, shape)
    values = model.add("Mul", values, _of_blocks(model, matrix, matrix.scales, ids))
    if matrix.minima is not None:
        values = model.add("Add", values, _of_blocks(model, matrix, matrix.minima, ids))
    return model.add("Reshape", values, model.int64(-1, matrix.padded))


def _of_blocks(model: Model, matrix: Matrix, side: ir.Value, ids: ir.Value) -> ir.Value:
    """Rows of scales or minima, [ids, blocks, 1]."""
    rows = model.add("Gather", model.in_precision(side), ids, axis=0)
    return model.add("Reshape", rows, model.int64(-1, matrix.blocks, 1))


def _byte(model: Model, value: int) -> ir.Value:
    return model.inline(np.array(value), ir.DataType.UINT8)
