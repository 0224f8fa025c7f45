"""The lists of what the onnx target can emit: op class → emitter, one list for each dialect."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node
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
from . import (
    emit_attention,
    emit_elementwise,
    emit_experts,
    emit_linear,
    emit_movement,
    emit_reduction,
    ort_attention,
    ort_linear,
    ort_norm,
)
from .model import Model

Emitter = Callable[[Model, Node], None]

STANDARD: dict[type[Op], Emitter] = {
    Binary: emit_elementwise.emit_binary,
    Cast: emit_elementwise.emit_cast,
    CombineExperts: emit_experts.emit_combine_experts,
    Concat: emit_movement.emit_concat,
    CumSum: emit_reduction.emit_cumsum,
    Embedding: emit_linear.emit_embedding,
    Expand: emit_movement.emit_expand,
    Full: emit_movement.emit_full,
    Gather: emit_movement.emit_gather,
    GroupedLinear: emit_experts.emit_grouped_linear,
    Iota: emit_movement.emit_iota,
    Linear: emit_linear.emit_linear,
    LogitsRows: emit_movement.emit_logits_rows,
    MatMul: emit_reduction.emit_matmul,
    Norm: emit_reduction.emit_norm,
    Permute: emit_movement.emit_permute,
    Reduce: emit_reduction.emit_reduce,
    Reshape: emit_movement.emit_reshape,
    Rotary: emit_attention.emit_rotary,
    RouteTokens: emit_experts.emit_route_tokens,
    Scatter: emit_movement.emit_scatter,
    Slice: emit_movement.emit_slice,
    SlotAttention: emit_attention.emit_slot_attention,
    SlotWrite: emit_attention.emit_slot_write,
    Softmax: emit_reduction.emit_softmax,
    TopK: emit_reduction.emit_top_k,
    Unary: emit_elementwise.emit_unary,
    Where: emit_elementwise.emit_where,
}
"""Operators of ONNX alone: any conforming runtime."""

ORT: dict[type[Op], Emitter] = {
    **STANDARD,
    Embedding: ort_linear.ort_embedding,
    GroupedLinear: ort_linear.ort_grouped_linear,
    Linear: ort_linear.ort_linear,
    Norm: ort_norm.ort_norm,
    SlotAttention: ort_attention.ort_slot_attention,
    SlotWrite: ort_attention.ort_slot_write,
}
"""ONNX Runtime's own operators where they are faster."""

EMITTERS: dict[str, dict[type[Op], Emitter]] = {"ort": ORT, "standard": STANDARD}


def emit_node(model: Model, node: Node, dialect: str) -> None:
    """Add the nodes of one node.

    Raises:
        LlmcError: LLMC-E0401, the op or this use of it isn't supported.
    """
    model.node = node
    emitter = EMITTERS[dialect].get(type(node.op))
    if emitter is None:
        raise model.refuse("there is no ONNX operator for it")
    emitter(model, node)
