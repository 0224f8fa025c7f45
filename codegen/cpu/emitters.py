"""The one list of what the cpu target can emit: op class → emitter."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node
from ...ir.ops import (
    Binary,
    CacheWrite,
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
    PagedAttention,
    Permute,
    QuantizeRows,
    Reduce,
    Reshape,
    Rotary,
    RouteTokens,
    Scatter,
    Slice,
    Softmax,
    TopK,
    Unary,
    Where,
)
from . import (
    emit_attention,
    emit_elementwise,
    emit_linear,
    emit_movement,
    emit_norm,
    emit_reduction,
)
from .function import Function

Emitter = Callable[[Function, Node], None]

EMITTERS: dict[type[Op], Emitter] = {
    Binary: emit_elementwise.emit_binary,
    CacheWrite: emit_attention.emit_cache_write,
    Cast: emit_elementwise.emit_cast,
    CombineExperts: emit_linear.emit_combine_experts,
    Concat: emit_movement.emit_concat,
    CumSum: emit_reduction.emit_cumsum,
    Embedding: emit_linear.emit_embedding,
    Expand: emit_movement.emit_expand,
    Full: emit_elementwise.emit_full,
    Gather: emit_movement.emit_gather,
    GroupedLinear: emit_linear.emit_grouped_linear,
    Iota: emit_elementwise.emit_iota,
    Linear: emit_linear.emit_linear,
    LogitsRows: emit_movement.emit_logits_rows,
    MatMul: emit_reduction.emit_matmul,
    Norm: emit_norm.emit_norm,
    PagedAttention: emit_attention.emit_paged_attention,
    Permute: emit_movement.emit_permute,
    QuantizeRows: emit_linear.emit_quantize_rows,
    Reduce: emit_reduction.emit_reduce,
    Reshape: emit_movement.emit_reshape,
    Rotary: emit_attention.emit_rotary,
    RouteTokens: emit_linear.emit_route_tokens,
    Scatter: emit_movement.emit_scatter,
    Slice: emit_movement.emit_slice,
    Softmax: emit_reduction.emit_softmax,
    TopK: emit_reduction.emit_top_k,
    Unary: emit_elementwise.emit_unary,
    Where: emit_elementwise.emit_where,
}


def emit_node(fn: Function, node: Node) -> None:
    """Add the steps of one node.

    Raises:
        LlmcError: LLMC-E0401, the op or this use of it isn't supported.
    """
    fn.node = node
    emitter = EMITTERS.get(type(node.op))
    if emitter is None:
        raise fn.refuse("there is no kernel for it")
    emitter(fn, node)
