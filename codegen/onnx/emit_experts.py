"""Mixtures of experts with operators of ONNX alone.

Rows are sorted by expert and each expert's product reads its slice of them, so that a step does
the work of the experts it chose and not of all: an empty slice costs a call. One product per
expert, each with its own initializer, because ONNX has no product that chooses its weight.
"""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import Node
from ...ir.ops import CombineExperts, GroupedLinear, RouteTokens
from ...ir.types import DType
from .emit_linear import Product, capped, epilogue, product, weight_rows
from .emitters import emits
from .model import Model


@emits(RouteTokens)
def route_tokens(model: Model, node: Node, op: RouteTokens) -> None:
    """Sort rows by expert without a sort: a row's place is how many stand before it."""
    index_value = node.inputs[0]
    (index,) = model.operands()
    experts, choices = op.experts, index_value.type.shape[1]
    assert isinstance(choices, int)
    chosen = model.cast(model.add("Reshape", index, model.int64(-1)), DType.I64)
    member = model.add(
        "OneHot", chosen, model.int64(experts), model.int64(0, 1), axis=-1
    )  # i64 [rows, experts]
    running = model.add("CumSum", member, model.number(0, DType.I64))
    counts = model.add("ReduceSum", member, model.int64(0), keepdims=0)
    zero = model.int64(0)
    ends = model.add("CumSum", counts, model.number(0, DType.I64))
    offsets = model.add("Concat", zero, ends, axis=0)
    before = model.add("Gather", offsets, chosen, axis=0)
    column = model.add("Unsqueeze", chosen, model.int64(1))
    rank = model.add("GatherElements", running, column, axis=1)
    rank = model.add("Sub", model.add("Squeeze", rank, model.int64(1)), model.int64(1))
    slot = model.add("Add", before, rank)
    row_index = _inverse(model, slot, choices)
    slot = model.add("Reshape", slot, model.int64(-1, choices))
    model.result(*(model.cast(x, DType.I32) for x in (row_index, offsets, slot)))


def _inverse(model: Model, slot: ir.Value, choices: int) -> ir.Value:
    """The token of each sorted row: where `slot` says that each copy of a token went."""
    count = model.add("Squeeze", model.add("Shape", slot), model.int64(0))
    copies = model.add("Range", model.number(0, DType.I64), count, model.number(1, DType.I64))
    tokens = model.add("Div", copies, model.number(choices, DType.I64))
    return model.add("ScatterElements", tokens, slot, tokens, axis=0)


@emits(GroupedLinear)
def grouped_linear(model: Model, node: Node, op: GroupedLinear) -> None:
    """Each expert's product of its rows, behind one another."""
    grouped_linear_by(product, model, node, op)


def grouped_linear_by(multiply: Product, model: Model, node: Node, op: GroupedLinear) -> None:
    """Experts whose products `multiply` makes."""
    if op.quantized:
        raise model.refuse("its input comes in int8 blocks")
    (_, *_), weight, bias, row_index, offsets = op.split_groups(node.inputs)
    x = model.operand(node.inputs[0])
    if row_index is not None:
        x = model.add("Gather", x, model.operand(row_index), axis=0)
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        raise model.refuse("weights of experts must be constants")
    bounds = model.cast(model.operand(offsets), DType.I64)
    parts = []
    for expert in range(len_of(weight.type.shape[0])):
        rows = _rows_of(model, x, bounds, expert)
        own_bias = None
        if bias is not None:
            own_bias = model.in_precision(model.constants.plain(model, bias, expert))
        y = multiply(model, rows, weight, own_bias, expert)
        parts.append(capped(model, epilogue(model, op, y, weight_rows(weight)), op.softcap))
    model.result(model.add("Concat", *parts, axis=0))


def _rows_of(model: Model, x: ir.Value, bounds: ir.Value, expert: int) -> ir.Value:
    """The rows of x that `expert` was chosen for."""
    zero = model.int64(0)
    start = model.add("Slice", bounds, model.int64(expert), model.int64(expert + 1), zero)
    stop = model.add("Slice", bounds, model.int64(expert + 1), model.int64(expert + 2), zero)
    return model.add("Slice", x, start, stop, zero)


def len_of(dim: object) -> int:
    """A dimension that must be known."""
    assert isinstance(dim, int)
    return dim


@emits(CombineExperts)
def combine_experts(model: Model, node: Node, _: CombineExperts) -> None:
    """Sum of a token's rows, weighted."""
    x, slot, weights = model.operands()
    rows = model.add("Gather", x, slot, axis=0)
    weighted = model.add("Mul", rows, model.add("Unsqueeze", weights, model.int64(-1)))
    model.result(model.add("ReduceSum", weighted, model.int64(1), keepdims=0))
