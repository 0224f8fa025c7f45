"""Data movement: shapes, slices, concatenation, gathers, scatters, and sources of values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import Node
from ...ir.ops import Concat, Expand, Full, Gather, Iota, Permute, Reshape, Scatter, Slice
from ...ir.types import Dim, DType
from .constants import ONNX_TYPE
from .model import Model

_INLINE_ELEMENTS = 256
"""Longer constants are computed in the model."""


def emit_reshape(model: Model, node: Node) -> None:
    """The same elements under another shape."""
    assert isinstance(node.op, Reshape)
    (x,) = model.operands()
    model.result(model.reshape(x, node.op.shape))


def emit_permute(model: Model, node: Node) -> None:
    """Dimensions in another order."""
    assert isinstance(node.op, Permute)
    (x,) = model.operands()
    rank = len(node.op.dims)
    model.result(model.add("Transpose", x, perm=[d % rank for d in node.op.dims]))


def emit_expand(model: Model, node: Node) -> None:
    """Broadcast to a shape; dimensions that x has already are 1 in it, as ONNX allows."""
    assert isinstance(node.op, Expand)
    (x,) = model.operands()
    own = node.inputs[0].type.shape
    own = (*[None] * (len(node.op.shape) - len(own)), *own)
    dims: list[Dim] = [
        1 if have == want else want for have, want in zip(own, node.op.shape, strict=True)
    ]
    model.result(model.add("Expand", x, model.shape(dims)))


def emit_slice(model: Model, node: Node) -> None:
    """Every `step`-th element of a range along one dimension."""
    op = node.op
    assert isinstance(op, Slice)
    (x,) = model.operands()
    model.result(slice_of(model, x, op.dim % node.inputs[0].type.rank, op.start, op.stop, op.step))


def slice_of(
    model: Model, x: ir.Value, axis: int, start: int, stop: int, step: int = 1
) -> ir.Value:
    """`x[start:stop:step]` along `axis`."""
    bounds = [model.int64(n) for n in (start, stop, axis)]
    return model.add("Slice", x, *bounds, *([] if step == 1 else [model.int64(step)]))


def emit_concat(model: Model, node: Node) -> None:
    """Inputs behind one another."""
    assert isinstance(node.op, Concat)
    axis = node.op.dim % node.output.type.rank
    model.result(model.add("Concat", *model.operands(), axis=axis))


def emit_gather(model: Model, node: Node) -> None:
    """torch.gather."""
    assert isinstance(node.op, Gather)
    x, index = model.operands()
    axis = node.op.dim % node.inputs[0].type.rank
    model.result(model.add("GatherElements", x, model.cast(index, DType.I64), axis=axis))


def emit_scatter(model: Model, node: Node) -> None:
    """torch.scatter or scatter_add; bools and narrow types are added as i32."""
    op = node.op
    assert isinstance(op, Scatter)
    x, index, source = model.operands()
    own = node.inputs[0].type.dtype
    wide = DType.I32 if op.accumulate and own in (DType.I8, DType.U8, DType.BOOL) else own
    if wide is not own:
        x = model.cast(x, wide)
    if node.inputs[2].type.dtype is not wide:
        source = model.cast(source, wide)
    if node.inputs[2].type.rank == 0:
        source = model.add("Expand", source, model.shape(node.inputs[1].type.shape))
    y = model.add(
        "ScatterElements", x, model.cast(index, DType.I64), source,
        axis=op.dim % node.output.type.rank, reduction="add" if op.accumulate else "none",
    )  # fmt: skip
    model.result(y if wide is own else model.cast(y, own))


def emit_full(model: Model, node: Node) -> None:
    """One value in every place."""
    assert isinstance(node.op, Full)
    (x,) = model.operands()
    model.result(model.add("Expand", x, model.shape(node.op.shape)))


def emit_iota(model: Model, node: Node) -> None:
    """0, 1, 2, …: a constant where it is short."""
    op = node.op
    assert isinstance(op, Iota)
    if op.size <= _INLINE_ELEMENTS:
        model.result(model.add("Identity", model.inline(np.arange(op.size), ONNX_TYPE[op.dtype])))
        return
    ends = (model.number(n, DType.I64) for n in (0, op.size, 1))
    y = model.add("Range", *ends)
    model.result(y if op.dtype is DType.I64 else model.cast(y, op.dtype))


def emit_logits_rows(model: Model, node: Node) -> None:
    """The rows that logits are wanted for."""
    x, rows = model.operands()
    model.result(model.add("Gather", x, rows, axis=0))
