"""Layers of a TensorRT network under construction, named after the source model.

What is added goes through `add`, which names it and refuses what TensorRT refuses. Everything is
strongly typed; elementwise layers want operands of equal rank, and `align` sees to that. Nothing
here knows what the tensors mean to the graph: that is `net.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...base.errors import LlmcError
from ...ir.graph import Node
from ...ir.types import Sym
from ...runtime.executors.tensorrt_library import MESSAGES, readable
from .constants import Held

Tensor = Any


class Layers:
    """Adds layers; `held` are the arrays that have to outlive the build."""

    def __init__(self, trt: Any, network: Any) -> None:
        self.trt = trt
        self.network = network
        self.held: list[Held] = []
        self.shared: dict[Any, Tensor] = {}
        self._casts: dict[tuple[int, Any], Tensor] = {}
        self._names: dict[str, int] = {}
        self._node: Node | None = None

    def begin(self, node: Node | None) -> None:
        """Layers added from now on belong to `node`."""
        self._node = node

    @property
    def place(self) -> str:
        """The module path that layers are being added for."""
        return self._node.scope if self._node is not None and self._node.scope else "main"

    def add(self, layer: Any) -> Any:
        """Name a new layer after the model's module and the op; the layer.

        Raises:
            LlmcError: LLMC-E0720, TensorRT made none.
        """
        what = self._node.op.mnemonic if self._node is not None else "input"
        errors, _ = MESSAGES.take()
        if layer is None or errors:
            raise LlmcError(
                "LLMC-E0720", f"TensorRT refuses {what} at {self.place}: {readable(errors)}"
            )
        base = f"{self.place}/{what}"
        number = self._names[base] = self._names.get(base, 0) + 1
        layer.name = base if number == 1 else f"{base}.{number}"
        layer.metadata = (self._node.source or self.place) if self._node is not None else ""
        return layer

    def out(self, layer: Any) -> Tensor:
        """`add`, then the layer's only output, whose shape TensorRT must have found."""
        tensor = self.add(layer).get_output(0)
        try:
            len(tensor.shape)
        except RuntimeError:
            raise self._refused() from None
        return tensor

    def _refused(self) -> LlmcError:
        what = self._node.op.mnemonic if self._node is not None else "input"
        reason = readable(MESSAGES.take()[0])
        return LlmcError("LLMC-E0720", f"TensorRT refuses {what} at {self.place}: {reason}")

    def weights(self, held: Held) -> Tensor:
        """A constant of a kept array, named so that refitting can find it."""
        self.held.append(held)
        weights = self.trt.Weights(getattr(self.trt, held.type), held.array.ctypes.data, held.count)
        layer = self.add(self.network.add_constant(self.trt.Dims(held.shape), weights))
        if held.name:
            self.network.set_weights_name(weights, held.name)
        return layer.get_output(0)

    def literal(self, number: float, type: Any, rank: int) -> Tensor:
        """A scalar as a tensor of `rank` ones; made once."""
        key = ("literal", number, type, rank)
        if key not in self.shared:
            array = np.full((1,) * rank, number, _NUMPY[type.name])
            self.shared[key] = self.array(array)
            if type == self.trt.bfloat16:
                self.shared[key] = self.cast(self.shared[key], type)
        return self.shared[key]

    def array(self, array: np.ndarray) -> Tensor:
        """A small constant."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        self.held.append(Held("", "", array.shape, array, array.size))
        weights = self.trt.Weights(array)
        return self.out(self.network.add_constant(self.trt.Dims(array.shape), weights))

    # Small steps that many emitters take

    def cast(self, tensor: Tensor, type: Any) -> Tensor:
        """`tensor` in `type`; the same cast is made once."""
        if tensor.dtype == type:
            return tensor
        key = (id(tensor), type)
        if key not in self._casts:
            self.shared["cast", *key] = tensor  # keeps the id taken
            self._casts[key] = self.out(self.network.add_cast(tensor, type))
        return self._casts[key]

    def reshape(self, tensor: Tensor, dims: Sequence[int | Sym]) -> Tensor:
        """Row-major reshape; one dimension may be -1 or a symbol: whatever is left."""
        layer = self.network.add_shuffle(tensor)
        layer.reshape_dims = self.trt.Dims([d if isinstance(d, int) else -1 for d in dims])
        layer.zero_is_placeholder = False
        return self.out(layer)

    def reshape_to(self, tensor: Tensor, dims: Tensor) -> Tensor:
        """Reshape to the dimensions that an i64 shape tensor holds."""
        layer = self.network.add_shuffle(tensor)
        layer.set_input(1, dims)
        layer.zero_is_placeholder = False
        return self.out(layer)

    def permute(self, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        layer = self.network.add_shuffle(tensor)
        layer.first_transpose = self.trt.Permutation(list(dims))
        return self.out(layer)

    def align(self, *tensors: Tensor) -> list[Tensor]:
        """Leading dimensions of 1 until all have the same rank."""
        rank = max(len(t.shape) for t in tensors)
        return [self.lift(t, rank) for t in tensors]

    def lift(self, tensor: Tensor, rank: int) -> Tensor:
        """Leading dimensions of 1 until `tensor` has `rank`; made once."""
        missing = rank - len(tensor.shape)
        if missing == 0:
            return tensor
        key = ("lift", id(tensor), rank)
        if key not in self.shared:
            axes = self.array(np.arange(missing, dtype=np.int64))
            self.shared["lifted", id(tensor)] = tensor
            self.shared[key] = self.out(self.network.add_unsqueeze(tensor, axes))
        return self.shared[key]

    def binary(self, a: Tensor, b: Tensor, op: str) -> Tensor:
        """Elementwise `trt.ElementWiseOperation.<op>` of tensors of one type."""
        a, b = self.align(a, b)
        operation = getattr(self.trt.ElementWiseOperation, op)
        return self.out(self.network.add_elementwise(a, b, operation))

    def unary(self, x: Tensor, op: str) -> Tensor:
        return self.out(self.network.add_unary(x, getattr(self.trt.UnaryOperation, op)))

    def scaled(self, x: Tensor, factor: float, op: str = "PROD") -> Tensor:
        """`x` (op) a number."""
        return (
            x
            if (op, factor) == ("PROD", 1.0)
            else self.binary(x, self.literal(factor, x.dtype, len(x.shape)), op)
        )

    def once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made the first time."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


_NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "BF16": np.float32, "INT64": np.int64,
    "INT32": np.int32, "INT8": np.int8, "BOOL": np.bool_,
}  # fmt: skip
