"""Reductions, softmax, scans, top-k and products of activations."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from ...ir.ops import CumSum, MatMul, Reduce, Softmax, TopK
from ...ir.types import DType
from .emitters import emits
from .net import Net, Tensor

_REDUCE = {"sum": "SUM", "mean": "AVG", "amax": "MAX", "amin": "MIN", "prod": "PROD"}
_BOOLEAN = {"any": "MAX", "all": "MIN"}
TOPK_MOST = 3840
"""The largest k of the TopK layer."""


def reduce(net: Net, x: Tensor, kind: str, dims: tuple[int, ...], keep: bool) -> Tensor:
    """`trt.ReduceOperation.<kind>` over `dims` (any sign)."""
    mask = sum(1 << (d % len(x.shape)) for d in dims)
    operation = getattr(net.trt.ReduceOperation, kind)
    return net.out(net.network.add_reduce(x, operation, mask, keep))


@emits(Reduce, only=lambda op: op.fn != "argmax" or len(op.dims) == 1)
def emit_reduce(net: Net, node: Node, op: Reduce) -> Tensor:
    (value,) = node.inputs
    x = net.read(value)
    if op.fn == "argmax":
        return _argmax(net, node, op, x)
    if op.fn in _BOOLEAN:
        whole = net.cast(net.cast(x, net.trt.bool), net.trt.int32)
        return net.cast(reduce(net, whole, _BOOLEAN[op.fn], op.dims, op.keepdim), net.trt.bool)
    x = net.cast(x, net.types[node.output.type.dtype])
    return reduce(net, x, _REDUCE[op.fn], op.dims, op.keepdim)


def _argmax(net: Net, node: Node, op: Reduce, x: Tensor) -> Tensor:
    """The index of the largest along one dimension."""
    (dim,) = op.dims
    maximum = net.trt.TopKOperation.MAX
    layer = net.add(net.network.add_topk(x, maximum, 1, 1 << (dim % len(x.shape)), net.trt.int64))
    index = layer.get_output(1)
    return index if op.keepdim else net.reshape(index, node.output.type.shape)


def softmax(net: Net, x: Tensor, dim: int) -> Tensor:
    """Softmax along one dimension."""
    layer = net.add(net.network.add_softmax(x))
    layer.axes = 1 << (dim % len(x.shape))
    return layer.get_output(0)


@emits(Softmax)
def emit_softmax(net: Net, node: Node, op: Softmax) -> Tensor:
    """Softmax in f32; its logarithm is x - max - log Σ exp(x - max)."""
    x = net.read(node.inputs[0])
    if not op.log:
        return softmax(net, x, op.dim)
    shifted = net.binary(x, reduce(net, x, "MAX", (op.dim,), True), "SUB")
    total = reduce(net, net.unary(shifted, "EXP"), "SUM", (op.dim,), True)
    return net.binary(shifted, net.unary(total, "LOG"), "SUB")


@emits(CumSum)
def cumsum(net: Net, node: Node, op: CumSum) -> Tensor:
    x = net.cast(net.read(node.inputs[0]), net.types[node.output.type.dtype])
    axis = net.array(np.array(op.dim % len(x.shape), np.int32))
    kind = net.trt.CumulativeOperation.SUM
    return net.out(net.network.add_cumulative(x, axis, kind, False, False))


@emits(TopK, only=lambda op: op.k <= TOPK_MOST)
def top_k(net: Net, node: Node, op: TopK) -> tuple[Tensor, Tensor]:
    """The k largest and where they are. TensorRT doesn't say which of equal values come first."""
    x = net.read(node.inputs[0])
    mask = 1 << (len(x.shape) - 1)
    maximum = net.trt.TopKOperation.MAX
    layer = net.add(net.network.add_topk(x, maximum, op.k, mask, net.trt.int64))
    return layer.get_output(0), layer.get_output(1)


@emits(MatMul)
def matmul(net: Net, node: Node, _: MatMul) -> Tensor:
    """A product of activations, in f32: what meets here is small and may be positions.

    An inner dimension of 1 is a multiplication, which also GPUs without f32 products can do.
    """
    a, b = (net.read(v) for v in node.inputs)
    if node.inputs[0].type.dtype is not DType.F32:
        a, b = net.cast(a, net.trt.float32), net.cast(b, net.trt.float32)
    if node.inputs[0].type.shape[-1] == 1:
        return net.binary(a, b, "PROD")
    a, b = net.align(a, b)
    none = net.trt.MatrixOperation.NONE
    return net.out(net.network.add_matrix_multiply(a, none, b, none))
