"""Products with quantized weights: their operand and matrix, in the compute type.

In: the input of a linear layer and its weight in a number format. Out: the input as it is to be
multiplied (quantized and dequantized, padded) and the matrix, dequantized. TensorRT fuses
both into a product in the format's own type.
"""

from __future__ import annotations

import numpy as np

from ...base.errors import LlmcError
from ...ir.graph import Node, Value
from ...ir.tiles import BLOCK
from ...ir.types import DType
from .constants import Held
from .net import Net, Tensor
from .precision import UNBOUNDED

INT8_MAX, FP8_MAX = 127.0, 448.0


def _input_scale(net: Net, node: Node, weight: Value, most: float) -> Tensor:
    """The step of a layer's input: its largest calibrated magnitude over the largest code."""
    if weight.name not in net.ranges:
        raise LlmcError("LLMC-E0101", f"{node.scope} has no calibrated input range ({weight.name})")
    return net.array(np.array(max(net.ranges[weight.name], 1e-6) / most, np.float32))


def _int8(net: Net, node: Node, x: Tensor, weight: Value) -> tuple[Tensor, Tensor]:
    codes, scales = net.once(("int8", weight), lambda: net.constants.int8(weight))
    matrix = _dequantized(net, weight, codes, scales)
    if net.ranges.get(weight.name) == UNBOUNDED:
        return net.cast(x, net.compute_type), matrix
    scale = _input_scale(net, node, weight, INT8_MAX)
    return _round_trip(net, x, scale, net.trt.int8), matrix


def fp8(net: Net, node: Node, x: Tensor, weight: Value) -> tuple[Tensor, Tensor]:
    """E4M3, which the scheme asks for and not the weight's format."""
    scale = _input_scale(net, node, weight, FP8_MAX)
    codes, scales = net.once(("fp8", weight), lambda: net.constants.fp8(weight))
    matrix = _dequantized(net, weight, codes, scales)
    return _round_trip(net, x, scale, net.trt.fp8), matrix


def _round_trip(net: Net, x: Tensor, scale: Tensor, codes: object) -> Tensor:
    """Quantize and dequantize `x` in the compute type."""
    x = net.cast(x, net.compute_type)
    quantized = net.out(net.network.add_quantize(x, scale, codes))
    return net.out(net.network.add_dequantize(quantized, scale, net.compute_type))


def _dequantized(net: Net, weight: Value, codes: Held, scales: np.ndarray) -> Tensor:
    """A matrix (or one per expert) from codes and a scale per row.

    A scale belongs to one axis, so the rows of all experts are dequantized as one matrix.
    """

    def make() -> Tensor:
        shape = codes.shape
        codes.shape = (int(np.prod(shape[:-1])), shape[-1])
        layer = net.add(
            net.network.add_dequantize(
                net.weights(codes), net.array(scales.reshape(-1)), net.compute_type
            )
        )
        layer.axis = 0
        matrix = layer.get_output(0)
        return matrix if len(shape) == 2 else net.reshape(matrix, shape)

    return net.once(("matrix", weight), make)


def _int4(net: Net, _node: Node, x: Tensor, weight: Value) -> tuple[Tensor, Tensor]:
    """The block is what the shapes of codes and scales say. `x` is padded to whole blocks."""

    def make() -> Tensor:
        codes, scales = net.constants.int4(weight)
        shape = codes.shape
        for held in (codes, scales):
            held.shape = (int(np.prod(held.shape[:-1])), held.shape[-1])
        steps = net.cast(net.weights(scales), net.compute_type)
        matrix = net.out(net.network.add_dequantize(net.weights(codes), steps, net.compute_type))
        return matrix if len(shape) == 2 else net.reshape(matrix, shape)

    matrix = net.once(("matrix", weight), make)
    return pad_last(net, net.cast(x, net.compute_type), BLOCK), matrix


QUANTIZED = {DType.I8C: _int8, DType.I4S: _int4}
"""Number formats that there are layers for: what makes operand and matrix of a product."""


def pad_last(net: Net, x: Tensor, multiple: int) -> Tensor:
    """`x` with zeros behind its last dimension up to a multiple."""
    missing = -x.shape[-1] % multiple
    if not missing:
        return x
    zero = net.literal(0, x.dtype, 0)
    layer = net.network.add_slice(
        x, net.trt.Dims([0]), net.trt.Dims([x.shape[-1] + missing]), net.trt.Dims([1])
    )
    layer.axes = net.trt.Dims([len(x.shape) - 1])
    layer.mode = net.trt.SampleMode.FILL
    layer.set_input(4, zero)
    return net.out(layer)
