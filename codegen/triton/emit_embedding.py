"""Rows of a table: launches of `kernels/embedding.py`."""

from __future__ import annotations

from typing import Any

from ...artifact.launch_plan import Pointer
from ...ir.graph import Node, Value
from ...ir.ops.shape import Embedding
from ...ir.types import DType, numel
from ...weights.formats.registry import is_quantized
from ..views import packed_tail, rows
from .emit_generated import dense
from .emitters import emits
from .layout import in_panels, row_stride
from .operands import POINTER, Choice, Operand, extent
from .program import Program
from .tiles import LARGEST_I32

_WIDEST = 1024
"""Columns that a program copies at most."""


@emits(Embedding)
def embedding(program: Program, node: Node, op: Embedding) -> None:
    table, ids = node.inputs
    pointer, facts = _table(program, table)
    index = dense(program, program.view(ids))
    count, width = numel(ids.type.shape), table.type.shape[1]
    assert isinstance(width, int)
    block = min(1 << (width - 1).bit_length(), _WIDEST)
    constants = facts | {"K": width, "OUT_STRIDE": width, "BLOCK_T": 1, "BLOCK_K": block}
    operands = {
        "ids_ptr": program.read(index),
        "table_ptr": pointer,
        "out_ptr": program.write(program.result(node.output)),
        "tokens": program.size(count),
    }
    choice = Choice((extent(count), extent(width, block)), constants)
    program.launch("embedding.embedding_rows", operands, lambda machine, form: choice)


def _table(program: Program, table: Value) -> tuple[Operand, dict[str, Any]]:
    """A pointer to the table, and what its bytes mean.

    A constant of weights' types is in the target's layout, and so once in memory if the model's
    head multiplies with it, too.
    """
    dtype, (count, width) = table.type.dtype, table.type.shape
    if table.is_constant and (dtype.is_float or is_quantized(dtype)):
        assert isinstance(count, int)
        assert isinstance(width, int)
        packed = program.weights.packed(table)
        argument = Pointer("weights", packed.offset, packed.nbytes, "r", early=True)
        stride = 0 if in_panels(dtype) else row_stride(dtype, width)
        format = str(dtype) if is_quantized(dtype) else "plain"
        facts = {"FORMAT": format, "ROWS": count, "TABLE_STRIDE": stride}
        return Operand(POINTER.get(dtype, POINTER[DType.U8]), argument), facts
    view = program.view(table)
    joined = rows(view) if packed_tail(view, 1) else None
    if joined is None:
        view = dense(program, view)
        joined = rows(view)
    if joined is None:
        raise program.refuse(f"a table that lies as {view.strides}")
    known = count if isinstance(count, int) else LARGEST_I32
    facts = {"FORMAT": "plain", "ROWS": known, "TABLE_STRIDE": joined[1]}
    return program.read(view), facts
