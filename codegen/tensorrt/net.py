"""A TensorRT network under construction: the tensors that the graph's values are.

A float value of the IR (f32) is held as TensorRT computed it, which is the compute type (f16, bf16
or f32) behind matrix products and attention and f32 elsewhere; whoever reads it says which it needs
(`read`: f32, `compute`: the compute type) and a cast is added once. So the residual stream, norms,
softmax and activations are f32, matrix products are not, and values that only move between two
products are never widened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.graph import Node, Value
from ...ir.ops import LogitsRows
from ...ir.scalar import Scalar
from ...ir.types import DType
from .constants import Constants
from .layers import Layers, Tensor
from .precision import Precision
from .sizes import Sizes


class Net(Layers):
    """The layers of one graph, and what its values are."""

    def __init__(
        self,
        trt: Any,
        network: Any,
        precision: Precision,
        constants: Constants,
        ranges: Mapping[str, float],
    ) -> None:
        super().__init__(trt, network)
        self.types = {
            DType.F32: trt.float32, DType.F16: trt.float16, DType.BF16: trt.bfloat16,
            DType.I64: trt.int64, DType.I32: trt.int32, DType.I8: trt.int8, DType.U8: trt.uint8,
            DType.BOOL: trt.bool,
        }  # fmt: skip
        self.precision = precision
        self.compute_type = self.types[precision.compute]
        self.constants = constants
        self.ranges = ranges
        self.tensors: dict[Value, Tensor] = {}
        self._sizes: Sizes | None = None
        self._start: Tensor = None

    def begin_run(self, sizes: Sizes, start: Tensor) -> None:
        """The run's dimensions and the input `start`, known once the inputs are."""
        self._sizes, self._start = sizes, start

    @property
    def sizes(self) -> Sizes:
        assert self._sizes is not None
        return self._sizes

    @property
    def start(self) -> Tensor:
        return self._start

    def read(self, value: Value) -> Tensor:
        """The tensor of `value` in its own type (float values: f32)."""
        tensor = self.raw(value)
        return self.cast(tensor, self.trt.float32) if value.type.dtype.is_float else tensor

    def compute(self, value: Value) -> Tensor:
        """The tensor of a float value in the compute type."""
        return self.cast(self.raw(value), self.compute_type)

    def raw(self, value: Value) -> Tensor:
        """The tensor of `value` in whatever type it is held."""
        if value not in self.tensors:
            self.tensors[value] = self._constant(value)
        return self.tensors[value]

    def _constant(self, value: Value) -> Tensor:
        if isinstance(value.recipe, Scalar):
            return self.literal(value.recipe.value, self.types[value.recipe.of], 0)
        dtype = value.type.dtype if value.type.dtype in self.types else self.precision.compute
        return self.weights(self.constants.plain(value, dtype))

    def table(self, value: Value) -> Tensor:
        """An embedding table in the compute type, also where the head reads its codes."""
        if value.type.dtype in self.types:
            return self.raw(value)
        return self.once(("table", value), lambda: self._table(value))

    def _table(self, value: Value) -> Tensor:
        held = self.constants.plain(value, self.precision.compute)
        held.name = f"{value.name}.table"
        return self.weights(held)

    def in_fp8(self, node: Node, weight: Value) -> bool:
        """Whether the scheme quantizes this layer to E4M3: not routers, not the head."""
        is_head = any(isinstance(u.producer.op, LogitsRows) for u in node.inputs[:1] if u.producer)
        return self.precision.fp8 and weight.type.dtype is self.precision.compute and not is_head
