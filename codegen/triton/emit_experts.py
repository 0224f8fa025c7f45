"""Routing tokens to experts, and adding up what they say: launches of `kernels/experts.py`."""

from __future__ import annotations

from ...artifact.launch_plan import Extent
from ...ir.graph import Node
from ...ir.ops import CombineExperts, RouteTokens
from ...ir.types import DType
from ..views import packed_tail, rows
from .emit_generated import dense
from .emitters import emits
from .forms import Form
from .machines import Machine
from .operands import Choice, extent
from .program import Program

_PAIRS = 1024
"""Pairs of token and choice that a program sorts at once, at most. Any number sorts the same."""
_COLUMNS = 512
"""Of a token's result that one program adds up."""


@emits(RouteTokens)
def route_tokens(program: Program, node: Node, op: RouteTokens) -> None:
    index = dense(program, program.view(node.inputs[0]))
    tokens, k = index.shape
    assert isinstance(k, int)
    row_index, offsets, slot = (program.result(value) for value in node.outputs)

    def choose(machine: Machine, form: Form) -> Choice:
        pairs = min(max(1 << (form.most(tokens) * k - 1).bit_length(), 32), _PAIRS)
        constants = {"K": k, "EXPERTS": op.experts, "BLOCK": pairs}
        return Choice((Extent("", op.experts),), constants, num_warps=max(1, pairs // 256))

    program.launch(
        "experts.route_tokens",
        {
            "index_ptr": program.read(index),
            "row_index_ptr": program.write(row_index),
            "offsets_ptr": program.write(offsets),
            "slot_ptr": program.write(slot),
            "tokens": program.size(tokens),
        },
        choose,
    )


@emits(CombineExperts)
def combine_experts(program: Program, node: Node, op: CombineExperts) -> None:
    x, slot_value, weights = (program.view(value) for value in node.inputs)
    if not (packed_tail(x, 1) and rows(x)):
        x = dense(program, x)
    slot, weights = dense(program, slot_value), dense(program, weights, DType.F32)
    out = program.result(node.output)
    (tokens, k), n = slot.shape, x.shape[-1]
    assert isinstance(n, int)
    joined, out_rows = rows(x), rows(out)
    assert joined is not None
    assert out_rows is not None
    block = min(1 << (n - 1).bit_length(), _COLUMNS)
    grid = (extent(tokens), Extent("", n, 0, block))
    constants = {
        "X_STRIDE": joined[1], "OUT_STRIDE": out_rows[1], "N": n, "K": k, "BLOCK_N": block,
    }  # fmt: skip
    choice = Choice(grid, constants, num_warps=2)
    program.launch(
        "experts.combine_experts",
        {
            "x_ptr": program.read(x),
            "slot_ptr": program.read(slot),
            "weight_ptr": program.read(weights),
            "out_ptr": program.write(out),
        },
        lambda machine, form: choice,
    )
