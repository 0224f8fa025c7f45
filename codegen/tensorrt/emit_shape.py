"""Data movement: floats move in whatever type they are held, so nothing is widened to be moved."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops import Concat, Expand, Full, Gather, Iota, Permute, Reshape, Scatter, Slice
from ...ir.types import Sym
from .net import Net, Tensor


def emit_reshape(net: Net, node: Node) -> Tensor:
    op = node.op
    assert isinstance(op, Reshape)
    return net.reshape(net.raw(node.inputs[0]), op.shape)


def emit_permute(net: Net, node: Node) -> Tensor:
    op = node.op
    assert isinstance(op, Permute)
    rank = len(op.dims)
    return net.permute(net.raw(node.inputs[0]), [d % rank for d in op.dims])


def emit_slice(net: Net, node: Node) -> Tensor:
    """`start:stop:step` along one dimension; the others are taken whole, by axis."""
    op = node.op
    assert isinstance(op, Slice)
    size = -(-(op.stop - op.start) // op.step)
    x = net.raw(node.inputs[0])
    return slice_along(net, x, op.dim % len(x.shape), op.start, size, op.step)


def slice_along(net: Net, x: Tensor, axis: int, start: int, size: int, step: int = 1) -> Tensor:
    """`size` elements of `x` along `axis`."""
    dims = net.trt.Dims
    layer = net.network.add_slice(x, dims([start]), dims([size]), dims([step]))
    layer.axes = dims([axis])
    return net.out(layer)


def emit_concat(net: Net, node: Node) -> Tensor:
    """Inputs behind one another; floats all in f32 unless all are held in the compute type."""
    op = node.op
    assert isinstance(op, Concat)
    parts = [net.raw(v) for v in node.inputs]
    if len({str(p.dtype) for p in parts}) > 1:
        parts = [net.read(v) for v in node.inputs]
    layer = net.network.add_concatenation(parts)
    layer.axis = op.dim % len(parts[0].shape)
    return net.out(layer)


def emit_expand(net: Net, node: Node) -> Tensor:
    op = node.op
    assert isinstance(op, Expand)
    return expand(net, net.raw(node.inputs[0]), node, op.shape)


def emit_full(net: Net, node: Node) -> Tensor:
    op = node.op
    assert isinstance(op, Full)
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


def emit_embedding(net: Net, node: Node) -> Tensor:
    """Rows of a table. Of a quantized table there is a second copy in the compute type."""
    table, ids = node.inputs
    layer = net.network.add_gather(net.table(table), net.read(ids), 0)
    return net.out(layer)


def emit_gather(net: Net, node: Node) -> Tensor:
    op = node.op
    assert isinstance(op, Gather)
    x, index = net.raw(node.inputs[0]), net.read(node.inputs[1])
    layer = net.network.add_gather_v2(x, index, net.trt.GatherMode.ELEMENT)
    layer.axis = op.dim % len(x.shape)
    return net.out(layer)


def emit_scatter(net: Net, node: Node) -> Tensor:
    """torch.scatter without accumulation; a rank-0 source is broadcast."""
    op = node.op
    assert isinstance(op, Scatter)
    x, index, source = (net.read(v) for v in node.inputs)
    source = net.cast(source, x.dtype)
    if node.inputs[2].type.rank == 0:
        source = expand(net, source, node, node.inputs[1].type.shape)
    layer = net.network.add_scatter(x, index, source, net.trt.ScatterMode.ELEMENT)
    layer.axis = op.dim % len(x.shape)
    return net.out(layer)


def emit_iota(net: Net, node: Node) -> Tensor:
    import numpy as np

    op = node.op
    assert isinstance(op, Iota)
    tensor = net.array(np.arange(op.size, dtype=np.int64))
    return net.cast(tensor, net.types[op.dtype])


def emit_logits_rows(net: Net, node: Node) -> Tensor:
    x, rows = node.inputs
    return net.out(net.network.add_gather(net.raw(x), net.read(rows), 0))
