"""Shapes that are known when a run starts: tensors of dimensions, from the inputs' shapes.

Symbols: S and Q are the dimensions of the input `token_ids` [S, Q], T = S * Q, R those of
`logits_rows`. TensorRT computes with them on the host and follows them through reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.types import Sym
from .layers import Layers, Tensor

Dim = int | str | Sym
"""A number, the name of a symbol, or a symbol with its factor."""


class Sizes:
    """Makes shape tensors (i64), each once."""

    def __init__(self, net: Layers, token_ids: Tensor, logits_rows: Tensor) -> None:
        self._net = net
        shape = net.out(net.network.add_shape(token_ids))
        rows = net.out(net.network.add_shape(logits_rows))
        self._known = {"S": self._part(shape, 0), "Q": self._part(shape, 1), "R": rows}
        self._known["T"] = net.binary(self._known["S"], self._known["Q"], "PROD")

    def _part(self, shape: Tensor, index: int) -> Tensor:
        dims = self._net.trt.Dims
        return self._net.out(
            self._net.network.add_slice(shape, dims([index]), dims([1]), dims([1]))
        )

    def __call__(self, dims: Sequence[Dim]) -> Tensor:
        """The dimensions as one i64 tensor."""
        key = ("sizes", *dims)
        return self._net.once(key, lambda: self._joined(dims))

    def _joined(self, dims: Sequence[Dim]) -> Tensor:
        parts = [self._one(d) for d in dims]
        if len(parts) == 1:
            return parts[0]
        layer = self._net.network.add_concatenation(parts)
        layer.axis = 0
        return self._net.out(layer)

    def _one(self, dim: Dim) -> Tensor:
        if isinstance(dim, int):
            return self._net.once(("size", dim), lambda: self._net.array(np.array([dim], np.int64)))
        if isinstance(dim, str):
            return self._known[dim]
        known = self._known[dim.name]
        if dim.scale == 1:
            return known
        return self._net.once(
            ("size", dim), lambda: self._net.binary(known, self._one(dim.scale), "PROD")
        )

    def iota(self, count: Tensor) -> Tensor:
        """0, 1, … i32, as many as the shape tensor [1] says."""
        net = self._net
        layer = net.network.add_fill(
            net.trt.Dims([1]), net.trt.FillOperation.LINSPACE, net.trt.int32
        )
        layer.set_input(0, count)
        layer.set_input(1, net.array(np.array(0, np.int32)))
        layer.set_input(2, net.array(np.array([1], np.int32)))
        return net.out(layer)
