"""Data movement: floats move in whatever type they are held, so nothing is widened to be moved."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops import (
    Concat,
    Embedding,
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
from ...ir.types import Sym
from .emitters import emits
from .net import Net, Tensor


@emits(Reshape)
def reshape(net: Net, node: Node, op: Reshape) -> Tensor:
    return net.reshape(net.raw(node.inputs[0]), op.shape)


@emits(Permute)
def permute(net: Net, node: Node, op: Permute) -> Tensor:
    rank = len(op.dims)
    return net.permute(net.raw(node.inputs[0]), [d % rank for d in op.dims])


@emits(Slice)
def slice_(net: Net, node: Node, op: Slice) -> Tensor:
    """`start:stop:step` along one dimension; the others are taken whole, by axis."""
    size = -(-(op.stop - op.start) // op.step)
    x = net.raw(node.inputs[0])
    return slice_along(net, x, op.dim % len(x.shape), op.start, size, op.step)


def slice_along(net: Net, x: Tensor, axis: int, start: int, size: int, step: int = 1) -> Tensor:
    """`size` elements of `x` along `axis`."""
    dims = net.trt.Dims
    layer = net.network.add_slice(x, dims([start]), dims([size]), dims([step]))
    layer.axes = dims([axis])
    return net.out(layer)


@emits(Concat)
def concat(net: Net, node: Node, op: Concat) -> Tensor:
    """Inputs behind one another; floats all in f32 unless all are held in the compute type."""
    parts = [net.raw(v) for v in node.inputs]
    if len({str(p.dtype) for p in parts}) > 1:
        parts = [net.read(v) for v in node.inputs]
    layer = net.network.add_concatenation(parts)
    layer.axis = op.dim % len(parts[0].shape)
    return net.out(layer)


@emits(Expand)
def emit_expand(net: Net, node: Node, op: Expand) -> Tensor:
    return expand(net, net.raw(node.inputs[0]), node, op.shape)


@emits(Full)
def full(net: Net, node: Node, op: Full) -> Tensor:
    return expand(net, net.raw(node.inputs[0]), node, op.shape)


def expand(net: Net, x: Tensor, node: Node, shape: tuple[int | Sym, ...]) -> Tensor:
    """`x` broadcast to `shape`: a slice with stride 0 along the dimensions that grow."""
    x = net.lift(x, len(shape))
    size = net.sizes(shape)
    strides = [int(d != 1) for d in x.shape]
    dims = net.trt.Dims
    layer = net.network.add_slice(x, dims([0] * len(shape)), dims([1] * len(shape)), dims(strides))
    layer.set_input(2, size)
    return net.out(layer)


@emits(Embedding)
def embedding(net: Net, node: Node, _: Embedding) -> Tensor:
    """Rows of a table. Of a quantized table there is a second copy in the compute type."""
    table, ids = node.inputs
    layer = net.network.add_gather(net.table(table), net.read(ids), 0)
    return net.out(layer)


@emits(Gather)
def gather(net: Net, node: Node, op: Gather) -> Tensor:
    x, index = net.raw(node.inputs[0]), net.read(node.inputs[1])
    layer = net.network.add_gather_v2(x, index, net.trt.GatherMode.ELEMENT)
    layer.axis = op.dim % len(x.shape)
    return net.out(layer)


@emits(Scatter, only=lambda op: not op.accumulate)
def scatter(net: Net, node: Node, op: Scatter) -> Tensor:
    """torch.scatter without accumulation; a rank-0 source is broadcast."""
    x, index, source = (net.read(v) for v in node.inputs)
    source = net.cast(source, x.dtype)
    if node.inputs[2].type.rank == 0:
        source = expand(net, source, node, node.inputs[1].type.shape)
    layer = net.network.add_scatter(x, index, source, net.trt.ScatterMode.ELEMENT)
    layer.axis = op.dim % len(x.shape)
    return net.out(layer)


@emits(Iota)
def iota(net: Net, node: Node, op: Iota) -> Tensor:
    import numpy as np

    tensor = net.array(np.arange(op.size, dtype=np.int64))
    return net.cast(tensor, net.types[op.dtype])


@emits(LogitsRows)
def logits_rows(net: Net, node: Node, _: LogitsRows) -> Tensor:
    x, rows = node.inputs
    return net.out(net.network.add_gather(net.raw(x), net.read(rows), 0))
