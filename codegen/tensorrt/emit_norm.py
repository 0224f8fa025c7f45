"""Norms, in f32: RMSNorm as the arithmetic that TensorRT fuses, LayerNorm as its own layer."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from ...ir.ops import Norm
from .emit_reduction import reduce
from .emitters import emits
from .net import Net, Tensor


@emits(Norm, only=lambda op: not op.quantize)
def norm(net: Net, node: Node, op: Norm) -> Tensor | tuple[Tensor, Tensor]:
    """[x +] residual, then the norm; with `add` the sum is the first result."""
    x, residual, weight, bias = op.split(node.inputs)
    total = net.read(x)
    if residual is not None:
        total = net.binary(total, net.read(residual), "SUM")
    scale = None if weight is None else net.read(weight)
    offset = None if bias is None else net.read(bias)
    if op.fn == "rms_norm":
        y = _rms_norm(net, total, op.eps, scale, offset)
    else:
        y = _layer_norm(net, total, op.eps, scale, offset)
    return (total, y) if op.add else y


def _rms_norm(
    net: Net, x: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    mean = reduce(net, net.binary(x, x, "PROD"), "AVG", (-1,), True)
    scale = net.unary(net.unary(net.scaled(mean, eps, "SUM"), "SQRT"), "RECIP")
    y = net.binary(x, scale, "PROD")
    y = y if weight is None else net.binary(y, weight, "PROD")
    return y if bias is None else net.binary(y, bias, "SUM")


def _layer_norm(
    net: Net, x: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    width, rank = x.shape[-1], len(x.shape)
    weight = net.array(np.ones(width, np.float32)) if weight is None else weight
    bias = net.array(np.zeros(width, np.float32)) if bias is None else bias
    scale, offset = net.lift(weight, rank), net.lift(bias, rank)
    layer = net.add(net.network.add_normalization_v2(x, scale, offset, 1 << (rank - 1)))
    layer.epsilon = eps
    return layer.get_output(0)
