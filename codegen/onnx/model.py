"""An ONNX model under construction: what emitters add nodes to.

In: the values of a graph in phase SERVING (with slots). Out: an `onnx_ir.Graph` whose nodes are
named by the layer they are from, whose weights are external and whose small constants are inline.

Element types are those of the graph, with one exception: in a model of precision f16, values that
depend on a weight are f16 where the graph says f32, and what follows from positions alone (angles)
stays f32. `operands` gives a node's inputs in the precision that it computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ...base.errors import LlmcError
from ...ir.graph import Graph, Node, Value
from ...ir.ops import Embedding, Linear
from ...ir.scalar import scalar_of
from ...ir.types import Dim, DType, Sym
from .constants import ONNX_TYPE, Constants

OPSET = 24
"""The first opset with TensorScatter, and with attention over a cache that the caller holds."""
DIM_NAMES = {
    "T": "tokens",
    "S": "sequences",
    "Q": "query_tokens",
    "R": "logits_rows",
    "L": "cache_length",
}
"""What the graph's symbols are called in the model."""
Attribute = int | float | str | Sequence[int] | ir.Graph


class Model:
    """The nodes and values of one ONNX graph; `node` is the graph's node being emitted."""

    def __init__(
        self,
        graph: Graph,
        constants: Constants,
        precision: DType = DType.F32,
        slot_length: int = 0,
    ) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=graph.name)
        self.node: Node | None = None
        self.constants = constants
        self.caches: dict[Value, ir.Value] = {}
        """Name of a cache input → the cache after this step's write."""
        self.precision = precision
        self.slot_length = slot_length
        """The longest that a slot may be."""
        self._half = _depend_on_weights(graph) if precision is DType.F16 else set()
        self._values: dict[Value, ir.Value] = {}
        self._casts: dict[tuple[ir.Value, DType], ir.Value] = {}
        self._shared: dict[object, ir.Value] = {}
        self._names: dict[str, int] = {}

    # Nodes

    def add(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute
    ) -> ir.Value:
        """The result of a new node with one output."""
        (result,) = self.add_many(op_type, 1, *inputs, domain=domain, **attributes)
        return result

    def add_many(
        self,
        op_type: str,
        count: int,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: Attribute,
    ) -> Sequence[ir.Value]:
        """The results of a new node with `count` outputs."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=count)
        node.name = self.unique(f"{self.scope}/{op_type}")
        for i, output in enumerate(node.outputs):
            output.name = node.name if count == 1 else f"{node.name}.{i}"
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        self.graph.append(node)
        return node.outputs

    @property
    def scope(self) -> str:
        """The path of the layer that nodes are added for."""
        return (self.node.scope if self.node else "") or "inputs"

    def unique(self, name: str) -> str:
        """`name`, numbered where it is taken."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def shared(self, key: object, make: Callable[[], ir.Value]) -> ir.Value:
        """What `make` adds, once for all nodes that ask with an equal `key`; named after inputs."""
        if key not in self._shared:
            node, self.node = self.node, None
            try:
                self._shared[key] = make()
            finally:
                self.node = node
        return self._shared[key]

    # Values

    def operands(self) -> list[ir.Value]:
        """The current node's inputs, floats of rank > 0 and constants in its precision."""
        assert self.node is not None
        return [self.operand(value) for value in self.node.inputs]

    def operand(self, value: Value) -> ir.Value:
        """One input of the current node, in the precision that the node computes in."""
        return self.in_precision(self.read(value))

    def in_precision(self, x: ir.Value) -> ir.Value:
        """x, in f16 if it is f32 and the current node computes in f16."""
        if x.dtype is ir.DataType.FLOAT and self.computes_in is DType.F16:
            return self.cast(x, DType.F16)
        return x

    @property
    def computes_in(self) -> DType:
        """What f32 of the graph is for the current node."""
        node = self.node
        half = node is not None and any(v in self._half for v in (*node.inputs, *node.outputs))
        return DType.F16 if half else DType.F32

    def kind(self, value: Value) -> DType:
        """The element type of `value` in the model."""
        if value.type.dtype is DType.F32 and value in self._half:
            return DType.F16
        return value.type.dtype

    def read(self, value: Value) -> ir.Value:
        """`value` as it was defined, or the initializer of a constant."""
        literal = scalar_of(value)
        if literal is not None:
            return self.number(literal, value.type.dtype)
        if value not in self._values:
            self._values[value] = self.constants.plain(self, value)
        return self._values[value]

    def define(self, value: Value, result: ir.Value) -> None:
        """Say what `value` of the graph is in the model: its element type and its shape."""
        if result.shape is None:
            result.type = ir.TensorType(ONNX_TYPE[self.kind(value)])
            result.shape = ir.Shape([dim_name(d) for d in value.type.shape])
        self._values[value] = result

    def result(self, *results: ir.Value) -> None:
        """Define the outputs of the current node."""
        assert self.node is not None
        for value, result in zip(self.node.outputs, results, strict=True):
            self.define(value, result)

    def cast(self, x: ir.Value, dtype: DType) -> ir.Value:
        """`x` as `dtype` (f32: the precision of the current node); the same cast is one node."""
        if dtype is DType.F32:
            dtype = self.computes_in
        key = x, dtype
        if key not in self._casts:
            self._casts[key] = self.add("Cast", x, to=ONNX_TYPE[dtype].value)
        return self._casts[key]

    # Constants

    def number(self, value: float | int | bool, dtype: DType) -> ir.Value:
        """A rank-0 constant."""
        if dtype is DType.F32 and self.node is not None:
            dtype = self.computes_in
        return self.inline(np.array(value), ONNX_TYPE[dtype])

    def int64(self, *numbers: int) -> ir.Value:
        """A constant vector of i64, as shapes and axes are."""
        return self.inline(np.array(numbers, np.int64), ir.DataType.INT64)

    def inline(self, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        """A constant whose bytes stand in the model; equal ones are one."""
        array = array.astype(dtype.numpy())
        key = dtype, array.shape, array.tobytes()

        def make() -> ir.Value:
            name = self.unique(_constant_name(array))
            return self.initializer(ir.tensor(array, dtype, name=name))

        return self.shared(key, make)

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """The value that holds `tensor`."""
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    # Shapes

    def size(self, symbol: Sym) -> ir.Value:
        """How many `symbol` is in this call, i64[1]."""
        one = self._shared["size", symbol.name]
        if symbol.scale == 1:
            return one
        return self.shared(("size", symbol), lambda: self.add("Mul", one, self.int64(symbol.scale)))

    def set_size(self, name: str, size: ir.Value) -> None:
        """Say what the symbol `name` is: i64[1]."""
        self._shared["size", name] = size

    def shape(self, dims: Sequence[Dim]) -> ir.Value:
        """`dims` as an i64 vector; -1 stands for what is left, as in Reshape."""
        if all(isinstance(d, int) for d in dims):
            return self.int64(*(d for d in dims if isinstance(d, int)))
        key = "shape", tuple(dims)
        parts = [self.int64(d) if isinstance(d, int) else self.size(d) for d in dims]
        return self.shared(key, lambda: self.add("Concat", *parts, axis=0))

    def reshape(self, x: ir.Value, dims: Sequence[Dim]) -> ir.Value:
        """`x` under another shape with at most one symbol."""
        return self.add("Reshape", x, self.int64(*(-1 if isinstance(d, Sym) else d for d in dims)))

    def refuse(self, reason: str) -> LlmcError:
        """The error that says the current node can't be emitted."""
        assert self.node is not None
        where = f" at {self.node.scope}" if self.node.scope else ""
        return LlmcError("LLMC-E0401", f"onnx can't do {self.node.op.mnemonic}{where}: {reason}")


def dim_name(dim: Dim) -> int | str:
    """A dimension as the model shows it."""
    if isinstance(dim, int):
        return dim
    name = DIM_NAMES.get(dim.name, dim.name)
    return name if dim.scale == 1 else f"{dim.scale}*{name}"


def _constant_name(array: np.ndarray) -> str:
    """A readable name: the numbers themselves if there are few."""
    text = ",".join(str(x) for x in array.reshape(-1)[:4].tolist())
    return f"const[{text}{',…' if array.size > 4 else ''}]"


def _depend_on_weights(graph: Graph) -> set[Value]:
    """Values that tokens or weights reach: all that isn't computed from positions alone."""
    reached: set[Value] = set()
    for node in graph.nodes:
        first = isinstance(node.op, Embedding | Linear)
        if first or any(v in reached for v in node.inputs):
            reached.update(node.outputs)
    return reached
