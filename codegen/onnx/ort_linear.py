"""Linear layers and embeddings with ONNX Runtime's products over quantized weights.

MatMulNBits with accuracy level 4 rounds rows of x to int8 in blocks of 32 and multiplies in
integers, as our own CPU kernels do. Its codes are symmetric here:

    i4s: d * (q - 8)    i8b: d * (q - 128)    i4a: d * q + m = d * (q - 8) + c,  c = m + 8 d

and c times the sums of x's blocks is a second, 32 times smaller product. There are zero points,
but with 4-bit codes they are wrong for a single row on CPUs without AVX-512 (onnxruntime issue
29853), they are integers where minima have 16 bits, and floating ones are a thousand times slower.
What isn't stored in blocks is left to `emit_linear.py`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import Node, Value
from ...ir.ops import Embedding, GroupedLinear, Linear
from ...ir.tiles import BLOCK
from ...ir.types import DType
from ...weights.formats.registry import format_of, is_quantized
from . import emit_experts, emit_linear
from .constants import Matrix
from .emit_movement import slice_of
from .emitters import emits_ort
from .model import Model

DOMAIN = "com.microsoft"
_IN_BLOCKS_OF_INT8 = 4
_WIDE = 1024
"""Columns from which on a product with ones costs prompts more than it saves a single row."""


@emits_ort(Linear)
def linear(model: Model, node: Node, op: Linear) -> None:
    """`softcap([residual +] act(x Wᵀ + bias))`."""
    emit_linear.linear_by(product, model, node, op)


@emits_ort(GroupedLinear)
def grouped_linear(model: Model, node: Node, op: GroupedLinear) -> None:
    """Each expert's product of its rows, behind one another."""
    emit_experts.grouped_linear_by(product, model, node, op)


def product(
    model: Model, x: ir.Value, weight: Value, bias: ir.Value | None, expert: int | None = None
) -> ir.Value:
    """`x Wᵀ + bias` of x [rows, K], as [rows, N]."""
    if not _in_blocks(weight):
        return emit_linear.product(model, x, weight, bias, expert)
    matrix = model.constants.matrix(model, weight, expert)
    x = _whole_blocks(model, x, matrix)
    inputs = [x, _codes(model, matrix), model.in_precision(matrix.scales)]
    if bias is not None:
        inputs += [None, None, bias]
    y = model.add(
        "MatMulNBits", *inputs, domain=DOMAIN, K=matrix.padded, N=matrix.n,
        bits=matrix.format.row_bits, block_size=BLOCK, accuracy_level=_IN_BLOCKS_OF_INT8,
    )  # fmt: skip
    corrections = _corrections(model, matrix)
    if corrections is None:
        return y
    return model.add("Gemm", _block_sums(model, x, matrix.padded), corrections, y, transB=1)


def _in_blocks(weight: Value) -> bool:
    dtype = weight.type.dtype
    if not is_quantized(dtype):
        return False
    format = format_of(dtype)
    return not format.per_row and format.block == BLOCK


def _codes(model: Model, matrix: Matrix) -> ir.Value:
    """Codes as MatMulNBits has them: u8 [N, blocks, bytes of a block]."""
    shape = matrix.n, matrix.blocks, BLOCK * matrix.format.row_bits // 8
    return model.constants.retyped(model, matrix.codes, ir.DataType.UINT8, shape)


def _corrections(model: Model, matrix: Matrix) -> ir.Value | None:
    """What `i4a` adds to each symmetric block [N, blocks]; the runtime computes it at load."""
    minima = matrix.minima
    if minima is None:
        return None

    def corrections() -> ir.Value:
        offset = model.add("Mul", matrix.scales, model.number(float(matrix.zero), DType.F32))
        return model.add("Add", minima, offset)

    return model.in_precision(model.shared(("corrections", minima), corrections))


def _whole_blocks(model: Model, x: ir.Value, matrix: Matrix) -> ir.Value:
    """x with zeros behind its columns, which layers with the same input share."""
    return model.shared(("whole blocks", x), lambda: emit_linear.padded_columns(model, x, matrix))


def _block_sums(model: Model, x: ir.Value, width: int) -> ir.Value:
    """Sums of x's blocks [rows, blocks]; layers with the same input share them."""

    def sums() -> ir.Value:
        if width <= _WIDE:  # one small product instead of two operators
            ones = np.repeat(np.eye(width // BLOCK), BLOCK, axis=0)
            return model.add("MatMul", x, model.inline(ones, x.dtype or ir.DataType.FLOAT))
        blocks = model.add("Reshape", unshaped(x), model.int64(-1, width // BLOCK, BLOCK))
        return model.add("ReduceSum", blocks, model.int64(-1), keepdims=0)

    return model.shared(("block sums", x), sums)


@emits_ort(Embedding)
def embedding(model: Model, node: Node, op: Embedding) -> None:
    """Rows of a table; codes that a head shares are read and dequantized by one operator."""
    table, ids_value = node.inputs
    if not _in_blocks(table):
        emit_linear.embedding(model, node, op)
        return
    matrix = model.constants.matrix(model, table)
    ids = model.operand(ids_value)
    flat = ids if ids_value.type.rank == 1 else model.add("Reshape", ids, model.int64(-1))
    rows = model.add(
        "GatherBlockQuantized", matrix.codes, flat, model.in_precision(matrix.scales),
        domain=DOMAIN, bits=matrix.format.row_bits, block_size=BLOCK,
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    corrections = _corrections(model, matrix)
    if corrections is not None:
        rows = _corrected(model, rows, corrections, flat)
    if matrix.padded != matrix.k:
        rows = slice_of(model, rows, 1, 0, matrix.k)
    model.result(model.reshape(rows, node.output.type.shape))


def _corrected(model: Model, rows: ir.Value, corrections: ir.Value, ids: ir.Value) -> ir.Value:
    """Rows [ids, Kp] of an `i4a` table with each block's correction added."""
    blocks = model.add("Reshape", rows, model.int64(0, -1, BLOCK))
    added = model.add("Gather", corrections, ids, axis=0)
    total = model.add("Add", blocks, model.add("Unsqueeze", added, model.int64(-1)))
    return model.add("Reshape", total, model.int64(0, -1))


def unshaped(x: ir.Value) -> ir.Value:
    """x before it was reshaped: who gives it a whole new shape needs no old one."""
    while (node := x.producer()) is not None and node.op_type == "Reshape":
        before = node.inputs[0]
        assert before is not None
        x = before
    return x
