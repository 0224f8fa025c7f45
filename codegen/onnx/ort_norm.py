"""Normalizations that add first, as ONNX Runtime's one operator for both."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops import Norm
from . import emit_reduction
from .emitters import emits_ort
from .model import Model
from .ort_linear import DOMAIN


@emits_ort(Norm)
def norm(model: Model, node: Node, op: Norm) -> None:
    """RMS or layer normalization, behind a sum where there is one."""
    if not op.add or op.quantize or (op.fn == "rms_norm" and op.bias):
        emit_reduction.norm(model, node, op)
        return
    x, residual, weight, bias = op.split(tuple(model.operands()))
    weight = emit_reduction.ones(model, node) if weight is None else weight
    if op.fn == "rms_norm":
        kind, vectors = "SkipSimplifiedLayerNormalization", [weight]
    else:
        kind, vectors = "SkipLayerNormalization", [weight, bias]
    y, _, _, total = model.add_many(kind, 4, x, residual, *vectors, domain=DOMAIN, epsilon=op.eps)
    model.result(total, y)
