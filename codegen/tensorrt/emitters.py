"""One emitter per op, and what the target can't do, by name, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable

from ...base.errors import LlmcError
from ...ir.graph import Graph, Node
from ...ir.ops import (
    Binary,
    Cast,
    CombineExperts,
    Concat,
    CumSum,
    Embedding,
    Expand,
    Full,
    Gather,
    GroupedLinear,
    Iota,
    Linear,
    LogitsRows,
    MatMul,
    Norm,
    Op,
    Permute,
    Reduce,
    Reshape,
    Rotary,
    RouteTokens,
    Scatter,
    Slice,
    SlotAttention,
    SlotWrite,
    Softmax,
    TopK,
    Unary,
    Where,
)
from ...ir.types import DType
from . import (
    emit_attention,
    emit_elementwise,
    emit_experts,
    emit_linear,
    emit_norm,
    emit_reduction,
    emit_shape,
)
from .net import Net, Tensor

Emitter = Callable[[Net, Node], Tensor | tuple[Tensor, ...]]

EMITTERS: dict[type[Op], Emitter] = {
    Binary: emit_elementwise.emit_binary,
    Cast: emit_elementwise.emit_cast,
    CombineExperts: emit_experts.emit_combine_experts,
    Concat: emit_shape.emit_concat,
    CumSum: emit_reduction.emit_cumsum,
    Embedding: emit_shape.emit_embedding,
    Expand: emit_shape.emit_expand,
    Full: emit_shape.emit_full,
    Gather: emit_shape.emit_gather,
    GroupedLinear: emit_experts.emit_grouped_linear,
    Iota: emit_shape.emit_iota,
    Linear: emit_linear.emit_linear,
    LogitsRows: emit_shape.emit_logits_rows,
    MatMul: emit_reduction.emit_matmul,
    Norm: emit_norm.emit_norm,
    Permute: emit_shape.emit_permute,
    Reduce: emit_reduction.emit_reduce,
    Reshape: emit_shape.emit_reshape,
    Rotary: emit_attention.emit_rotary,
    RouteTokens: emit_experts.emit_route_tokens,
    Scatter: emit_shape.emit_scatter,
    Slice: emit_shape.emit_slice,
    SlotAttention: emit_attention.emit_slot_attention,
    SlotWrite: emit_attention.emit_slot_write,
    Softmax: emit_reduction.emit_softmax,
    TopK: emit_reduction.emit_top_k,
    Unary: emit_elementwise.emit_unary,
    Where: emit_elementwise.emit_where,
}
TOPK_MOST = 3840
_TYPES = {
    DType.F32, DType.BF16, DType.F16, DType.I64, DType.I32, DType.BOOL, *emit_linear.QUANTIZED,
}  # fmt: skip


def supports(op: Op) -> bool:
    """Whether a graph may hold `op`."""
    if isinstance(op, Unary):
        return op.fn in emit_elementwise.UNARY_FUNCTIONS
    if isinstance(op, Binary):
        return op.fn in emit_elementwise.BINARY_FUNCTIONS
    if isinstance(op, Norm):
        return not op.quantize
    if isinstance(op, Linear):
        return type(op) in EMITTERS and not op.quantized and not op.gated
    if isinstance(op, Scatter):
        return not op.accumulate
    if isinstance(op, TopK):
        return op.k <= TOPK_MOST
    if isinstance(op, Reduce):
        return op.fn != "argmax" or len(op.dims) == 1
    return type(op) in EMITTERS


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
        result = EMITTERS[type(node.op)](net, node)
        results = result if isinstance(result, tuple) else (result,)
        net.tensors.update(zip(node.outputs, results, strict=True))
