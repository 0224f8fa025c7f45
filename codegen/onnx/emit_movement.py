"""Data movement: shapes, slices, concatenation, gathers, scatters, and sources of values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import Node
from ...ir.ops import (
    Concat,
    Expand,
    Full,
    Gather,
    Iota,
    LogitsRows,
    Permute,
    Reshape,
    Scatter,
    Slice,
)
from ...ir.types import Dim, DType
from .constants import ONNX_TYPE
from .emitters import emits
from .model import Model

_INLINE_ELEMENTS = 256
"""Longer constants are computed in the model."""


@emits(Reshape)
def reshape(model: Model, node: Node, op: Reshape) -> None:
    """The same elements under another shape."""
    (x,) = model.operands()
    model.result(model.reshape(x, op.shape))


@emits(Permute)
def permute(model: Model, node: Node, op: Permute) -> None:
    """Dimensions in another order."""
    (x,) = model.operands()
    rank = len(op.dims)
    model.result(model.add("Transpose", x, perm=[d % rank for d in op.dims]))


@emits(Expand)
def expand(model: Model, node: Node, op: Expand) -> None:
    """Broadcast to a shape; dimensions that x has already are 1 in it, as ONNX allows."""
    (x,) = model.operands()
    own = node.inputs[0].type.shape
    own = (*[None] * (len(op.shape) - len(own)), *own)
    dims: list[Dim] = [
        1 if have == want else want for have, want in zip(own, op.shape, strict=True)
    ]
    model.result(model.add("Expand", x, model.shape(dims)))


@emits(Slice)
def slice_(model: Model, node: Node, op: Slice) -> None:
    """Every `step`-th element of a range along one dimension."""
    (x,) = model.operands()
    model.result(slice_of(model, x, op.dim % node.inputs[0].type.rank, op.start, op.stop, op.step))


def slice_of(
    model: Model, x: ir.Value, axis: int, start: int, stop: int, step: int = 1
) -> ir.Value:
    """`x[start:stop:step]` along `axis`."""
    bounds = [model.int64(n) for n in (start, stop, axis)]
    return model.add("Slice", x, *bounds, *([] if step == 1 else [model.int64(step)]))


@emits(Concat)
def concat(model: Model, node: Node, op: Concat) -> None:
    """Inputs behind one another."""
    axis = op.dim % node.output.type.rank
    model.result(model.add("Concat", *model.operands(), axis=axis))


@emits(Gather)
def gather(model: Model, node: Node, op: Gather) -> None:
    """torch.gather."""
    x, index = model.operands()
    axis = op.dim % node.inputs[0].type.rank
    model.result(model.add("GatherElements", x, model.cast(index, DType.I64), axis=axis))


@emits(Scatter)
def scatter(model: Model, node: Node, op: Scatter) -> None:
    """torch.scatter or scatter_add; bools and narrow types are added as i32."""
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


@emits(Full)
def full(model: Model, node: Node, op: Full) -> None:
    """One value in every place."""
    (x,) = model.operands()
    model.result(model.add("Expand", x, model.shape(op.shape)))


@emits(Iota)
def iota(model: Model, node: Node, op: Iota) -> None:
    """0, 1, 2, …: a constant where it is short."""
    if op.size <= _INLINE_ELEMENTS:
        model.result(model.add("Identity", model.inline(np.arange(op.size), ONNX_TYPE[op.dtype])))
        return
    ends = (model.number(n, DType.I64) for n in (0, op.size, 1))
    y = model.add("Range", *ends)
    model.result(y if op.dtype is DType.I64 else model.cast(y, op.dtype))


@emits(LogitsRows)
def logits_rows(model: Model, node: Node, _: LogitsRows) -> None:
    """The rows that logits are wanted for."""
    x, rows = model.operands()
    model.result(model.add("Gather", x, rows, axis=0))
