"""Linear layers: a matrix product in the compute type, its epilogue in f32.

How a weight is held decides the layers around the product:

| weight in the graph | layers                                                                    |
|---------------------|---------------------------------------------------------------------------|
| `f32`               | product in f32 (routers; everything in the scheme f32)                    |
| `f16`, `bf16`       | product in the compute type                                               |
| `i8c`               | quantize/dequantize around the input (one calibrated scale a layer),      |
|                     | dequantize behind the int8 weight (a scale per output): an int8 product;  |
|                     | an input that one scale doesn't suit stays f16 (`calibration.py`)         |
| `i4s`               | dequantize behind the int4 weight (a scale per block of 32 along K)       |
| `f16`, scheme fp8   | as `i8c` with E4M3                                                        |
"""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.ops import Linear
from .emit_elementwise import apply
from .emitters import emits
from .net import Net, Tensor
from .quantized import QUANTIZED, fp8


def is_plain(op: Linear) -> bool:
    """The input comes as floats, and no pair of gate and up is interleaved in the weight."""
    return not op.quantized and not op.gated


@emits(Linear, only=is_plain)
def linear(net: Net, node: Node, op: Linear) -> Tensor:
    """`y = softcap([residual +] act(x Wᵀ + bias))`."""
    (x, *_), weight, bias, residual = op.split(node.inputs)
    y = product(net, node, x, weight)
    return epilogue(net, op, y, bias, residual)


def product(net: Net, node: Node, x: Value, weight: Value, flat: Tensor | None = None) -> Tensor:
    """x Wᵀ. `flat`: the tensor to multiply instead of `x`, whose range it has."""
    tensor = flat if flat is not None else net.raw(x)
    if net.in_fp8(node, weight):
        tensor, matrix = fp8(net, node, tensor, weight)
    elif weight.type.dtype in QUANTIZED:
        tensor, matrix = QUANTIZED[weight.type.dtype](net, node, tensor, weight)
    else:
        wanted = net.types[weight.type.dtype]
        tensor, matrix = net.cast(tensor, wanted), net.cast(net.raw(weight), wanted)
    none, transposed = net.trt.MatrixOperation.NONE, net.trt.MatrixOperation.TRANSPOSE
    tensor, matrix = net.align(tensor, matrix)
    return net.out(net.network.add_matrix_multiply(tensor, none, matrix, transposed))


def epilogue(net: Net, op: Linear, y: Tensor, bias: Value | None, residual: Value | None) -> Tensor:
    """Bias, activation, residual and soft-cap in f32; a bare product stays in its own type."""
    if bias is not None:
        y = net.binary(net.cast(y, net.trt.float32), net.read(bias), "SUM")
    if op.act:
        y = apply(net, op.act, net.cast(y, net.trt.float32))
    if residual is not None:
        y = net.binary(net.cast(y, net.trt.float32), net.read(residual), "SUM")
    if op.softcap:
        y = soft_cap(net, net.cast(y, net.trt.float32), op.softcap)
    return y


def soft_cap(net: Net, x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap)."""
    return net.scaled(apply(net, "tanh", net.scaled(x, 1 / cap)), cap)
