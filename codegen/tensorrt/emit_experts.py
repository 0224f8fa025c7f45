"""Experts, densely: every expert computes every token of the run, then rows are picked.

TensorRT's MoE layer exists for SM100, 103 and 110 only (it was refused on all of 75 to 121), and
products with a data-dependent number of rows can't be had. So the sort of `RouteTokens` is left
out: rows stay in the order (token, choice), which consumers can't tell from a sorted one, and
`offsets` is held as the expert of each row. That costs experts / k times the products of a sparse
layer in prefill; in decode all experts' weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...base.errors import LlmcError
from ...ir.graph import Node
from ...ir.ops import CombineExperts, GroupedLinear, RouteTokens
from ...ir.types import Sym
from .emit_linear import epilogue, is_plain, product
from .emit_reduction import reduce
from .emit_shape import expand
from .emitters import emits
from .net import Net, Tensor


@dataclass(frozen=True)
class Routes:
    """Where rows belong: `place` i32 [k*T, 2] is each row's (expert, token)."""

    experts: int
    expert: Tensor
    token: Tensor
    place: Tensor


@emits(RouteTokens)
def route_tokens(net: Net, node: Node, op: RouteTokens) -> tuple[Tensor, Tensor, Tensor]:
    """(token of each row, expert of each row in place of offsets, row of each choice)."""
    for user in node.outputs[1].users:
        if not isinstance(user.op, GroupedLinear):
            raise LlmcError("LLMC-E0401", f"trt can't do {user.op} at {user.scope}")
    (index,) = node.inputs
    choices = index.type.shape[1]
    assert isinstance(choices, int)
    expert = net.cast(net.reshape(net.read(index), (-1,)), net.trt.int32)
    tokens = index.type.shape[0]
    assert isinstance(tokens, Sym)
    rows = net.sizes.iota(net.sizes((Sym(tokens.name, tokens.scale * choices),)))
    token = net.scaled(rows, choices, "FLOOR_DIV")
    layer = net.network.add_concatenation(
        [net.reshape(expert, (-1, 1)), net.reshape(token, (-1, 1))]
    )
    layer.axis = 1
    net.shared["routes", node.outputs[1]] = Routes(op.experts, expert, token, net.out(layer))
    return token, expert, net.reshape(rows, (-1, choices))


@emits(GroupedLinear, only=is_plain)
def grouped_linear(net: Net, node: Node, op: GroupedLinear) -> Tensor:
    """Rows [k*T, N], each by its expert's weight."""
    (x, *_), weight, bias, row_index, offsets = op.split_groups(node.inputs)
    routes = net.shared["routes", offsets]
    rows = net.raw(x)
    if row_index is None:  # rows differ from choice to choice: lay them out by expert
        experts, _, width = weight.type.shape
        tokens = offsets.producer.inputs[0].type.shape[0]
        empty = net.literal(0, rows.dtype, 0)
        blank = expand(net, empty, node, (experts, tokens, width))
        mode = net.trt.ScatterMode.ND
        rows = net.out(net.network.add_scatter(blank, routes.place, rows, mode))
    dense = product(net, node, x, weight, rows)
    layer = net.network.add_gather_v2(dense, routes.place, net.trt.GatherMode.ND)
    y = net.out(layer)
    if bias is not None:
        own = net.out(net.network.add_gather(net.read(bias), routes.expert, 0))
        y = net.binary(net.cast(y, net.trt.float32), own, "SUM")
    return epilogue(net, op, y, None, None)


@emits(CombineExperts)
def combine_experts(net: Net, node: Node, _: CombineExperts) -> Tensor:
    """Σ_j weights[t, j] · x[slot[t, j]]."""
    x, slot, weights = node.inputs
    choices, width = slot.type.shape[1], x.type.shape[-1]
    rows = net.read(x)
    if slot.producer is not None and isinstance(slot.producer.op, RouteTokens):
        picked = net.reshape(rows, (-1, choices, width))
    else:
        picked = net.out(net.network.add_gather(rows, net.read(slot), 0))
    shares = net.reshape(net.read(weights), (-1, choices, 1))
    return reduce(net, net.binary(picked, shares, "PROD"), "SUM", (1,), False)
