"""The registry of what the target can emit, and what it can't, by name, before any weight is read.

The emitters are in `emit_*.py` beside it.
"""

from __future__ import annotations

from ...base.errors import LlmcError
from ...ir.graph import Graph, Node
from ...ir.types import DType
from ..emitting import Emitters
from .net import Net, Tensor
from .quantized import QUANTIZED

EMITTERS: Emitters[Net, Node, Tensor | tuple[Tensor, ...]] = Emitters(__name__, "emit_*")
emits, supports = EMITTERS.emits, EMITTERS.supports

_TYPES = {
    DType.F32, DType.BF16, DType.F16, DType.I64, DType.I32, DType.BOOL, *QUANTIZED,
}  # fmt: skip


def check(graph: Graph) -> None:
    """Refuse what has no layers in TensorRT.

    Raises:
        LlmcError: LLMC-E0401 naming the op and the module that it is from.
    """
    for node in graph.nodes:
        unknown = {v.type.dtype for v in (*node.inputs, *node.outputs)} - _TYPES
        if unknown or not supports(node.op):
            what = " ".join([str(node.op), *(f"of {dtype}" for dtype in sorted(unknown))])
            raise LlmcError("LLMC-E0401", f"trt can't do {what} at {node.scope or 'the graph'}")


def emit(net: Net, graph: Graph) -> None:
    """Add the layers of every node."""
    for node in graph.nodes:
        net.begin(node)
        emitter = EMITTERS.find(node.op)
        assert emitter is not None, f"`check` lets {node.op} pass"
        result = emitter(net, node, node.op)
        results = result if isinstance(result, tuple) else (result,)
        net.tensors.update(zip(node.outputs, results, strict=True))
