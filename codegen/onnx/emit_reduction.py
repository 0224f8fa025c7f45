"""Ops along a dimension: reductions, softmax, running sums, top-k, products, norms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import Node
from ...ir.ops import CumSum, MatMul, Norm, Reduce, Softmax, TopK
from ...ir.types import DType
from .constants import ONNX_TYPE
from .emitters import emits
from .model import Model

_REDUCE = {
    "sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax", "amin": "ReduceMin",
    "prod": "ReduceProd", "any": "ReduceMax", "all": "ReduceMin",
}  # fmt: skip


@emits(Reduce)
def reduce(model: Model, node: Node, op: Reduce) -> None:
    """A reduction over dimensions that are known."""
    (x,) = model.operands()
    own, target = node.inputs[0].type, node.output.type.dtype
    axes = sorted((d % own.rank for d in op.dims), reverse=True)
    if op.fn == "argmax":
        model.result(_argmax(model, x if not _is_small(own.dtype) else model.cast(x, DType.I32),
                             axes, op.keepdim))  # fmt: skip
        return
    wide = _reduced_in(op.fn, own.dtype)
    if op.fn in ("any", "all") and own.dtype is not DType.BOOL:
        x = model.cast(x, DType.BOOL)
        x = model.cast(x, wide)
    elif wide is not own.dtype:
        x = model.cast(x, wide)
    y = model.add(_REDUCE[op.fn], x, model.int64(*axes), keepdims=int(op.keepdim))
    model.result(y if wide is target else model.cast(y, target))


def _is_small(dtype: DType) -> bool:
    return dtype in (DType.I8, DType.U8, DType.BOOL)


def _reduced_in(fn: str, dtype: DType) -> DType:
    """The type that a reduction of `dtype` is computed in."""
    if fn in ("any", "all"):
        return DType.I32
    if dtype.is_float:
        return DType.F32
    if fn in ("sum", "prod"):
        return DType.I64
    return DType.I32 if _is_small(dtype) else dtype


def _argmax(model: Model, x: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """The first of the largest, dimension by dimension from the last."""
    for axis in axes:
        x = model.add("ArgMax", x, axis=axis, keepdims=int(keepdim), select_last_index=0)
    return x


@emits(Softmax)
def softmax(model: Model, node: Node, op: Softmax) -> None:
    """Softmax or its logarithm."""
    (x,) = model.operands()
    model.result(model.add("LogSoftmax" if op.log else "Softmax", x, axis=op.dim))


@emits(CumSum)
def cumsum(model: Model, node: Node, op: CumSum) -> None:
    """A running sum."""
    (x,) = model.operands()
    own, target = node.inputs[0].type, node.output.type.dtype
    wide = DType.F32 if own.dtype.is_float else DType.I64
    axis = model.number(op.dim % own.rank, DType.I64)
    y = model.add("CumSum", x if own.dtype is wide else model.cast(x, wide), axis)
    model.result(y if wide is target else model.cast(y, target))


@emits(TopK)
def top_k(model: Model, node: Node, op: TopK) -> None:
    """The largest values; ONNX, too, lets the lower index of equal values go first."""
    (x,) = model.operands()
    own = node.inputs[0].type.dtype
    wide = DType.F32 if own.is_float else DType.I64
    x = x if own is wide else model.cast(x, wide)
    values, indices = model.add_many("TopK", 2, x, model.int64(op.k), axis=-1, largest=1, sorted=1)
    model.result(values if own is wide else model.cast(values, own), indices)


@emits(MatMul)
def matmul(model: Model, node: Node, _: MatMul) -> None:
    """A product over the last two dimensions, as NumPy's matmul."""
    model.result(model.add("MatMul", *model.operands()))


@emits(Norm)
def norm(model: Model, node: Node, op: Norm) -> None:
    """RMS or layer normalization over the last dimension, behind a sum where there is one."""
    if op.quantize:
        raise model.refuse("rows are not quantized by a norm here")
    x, residual, weight, bias = op.split(tuple(model.operands()))
    total = x if residual is None else model.add("Add", x, residual)
    if weight is None:
        weight = ones(model, node)
    if op.fn == "rms_norm":
        y = model.add("RMSNormalization", total, weight, axis=-1, epsilon=op.eps)
        y = y if bias is None else model.add("Add", y, bias)
    else:
        inputs = [total, weight] if bias is None else [total, weight, bias]
        y = model.add("LayerNormalization", *inputs, axis=-1, epsilon=op.eps)
    model.result(*([total, y] if op.add else [y]))


def ones(model: Model, node: Node) -> ir.Value:
    """What a norm without weights is scaled with."""
    size = node.inputs[0].type.shape[-1]
    assert isinstance(size, int)
    return model.inline(np.ones(size), ONNX_TYPE[model.computes_in])
