"""Linear layers, of experts too: launches of `kernels/linear.py`, of `kernels/gemv.py` where rows
may depend on their batch, and of `kernels/normed_linear.py` where a layer normalizes its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...ir.graph import Node, Value
from ...ir.ops.linear import GroupedLinear, Linear
from ...ir.tiles import PANEL
from ...ir.types import DType
from ..views import View
from .emit_generated import dense
from .emitters import emits
from .forms import Form
from .layout import in_panels
from .linear_layer import (
    Layer,
    as_matrix,
    layer_of,
    of_machine,
    prefetched,
    same_place,
    weight_pointer,
)
from .machines import Machine
from .normed_rows import NormedRows
from .operands import Choice, Operand, extent
from .program import Program
from .prologues import FEW_ROWS, is_few


@emits(Linear)
def linear(program: Program, node: Node, op: Linear) -> None:
    x_values, weight, bias, residual = op.split(node.inputs)
    x, index = _rows_of(program, x_values)
    out = as_matrix(program, program.result(node.output))
    layer = layer_of(program, op, as_matrix(program, x), out, weight)
    added = None if residual is None else as_matrix(program, program.view(residual))
    constants = {
        **layer.constants,
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": added is not None,
        "RESIDUAL_STRIDE": added.stride if added else 0,
    }
    layer = replace(layer, constants=constants)
    operands = {
        "x_ptr": program.read(layer.x.view),
        "w_ptr": weight_pointer(program, weight),
        "bias_ptr": program.read(layer.x.view if bias is None else bias),
        "residual_ptr": program.read(added.view if added else layer.x.view),
        "index_ptr": program.read(layer.x.view if index is None else index),
        "out_ptr": program.write(layer.out.view),
        "rows": program.size(layer.out.count),
    }
    norm = program.prologues.norms.get(node)
    few = not program.batch_invariant and not in_panels(weight.type.dtype)

    def alone(form: Form) -> bool:
        """Whether the rows are normalized already, or never."""
        return norm is None or not is_few(form, norm)

    def choose(machine: Machine, form: Form) -> Choice | None:
        if not alone(form) or (few and form.most(layer.out.count) <= FEW_ROWS):
            return None
        tile = layer.tile(machine, form)
        constants = {
            **layer.constants, **tile.constants, "GROUP": tile.group, "GATHER": index is not None,
            **of_machine(machine), "PREFETCH": prefetched(machine, form),
        }  # fmt: skip
        grid = (extent(layer.n, tile.block_n), extent(layer.out.count, tile.block_t))
        return Choice(grid, constants, tile.num_warps, tile.num_stages)

    if norm is not None:
        _launch_normed(program, layer, operands, norm, few=few)
    selection = x_values[0].producer
    if index is not None and selection is not None:
        program.nodes = (selection, node)
    pairs = [(layer.out.view, added.view)] if added and same_place(layer.out, added) else []
    program.launch("linear.linear_rows", operands, choose, in_place=pairs)
    if few and any(alone(f) and f.most(layer.out.count) <= FEW_ROWS for f in program.forms):
        _launch_few(program, layer, operands, alone)


def _rows_of(program: Program, x: tuple[Value, ...]) -> tuple[View, View | None]:
    """Rows, and which of them a layer reads, if not all."""
    if len(x) != 1:
        raise program.refuse("rows that are quantized")
    producer = x[0].producer
    if producer not in program.prologues.selected:
        return program.view(x[0]), None
    assert producer is not None
    rows, index = producer.inputs
    return program.view(rows), _i32(program, index)


def _launch_normed(
    program: Program, layer: Layer, operands: Mapping[str, Operand], norm: Node, *, few: bool
) -> None:
    """The norm and the layer in one, for few rows."""
    rows = program.normed[norm]
    if program.node is program.prologues.readers[norm][0]:
        program.nodes = (norm, *program.nodes)
    else:  # the sum is there already, if there is one
        rows = rows.summed
    constants = {**layer.constants, **rows.constants}
    given = _normed_operands(program, rows, operands, constants)
    if few:
        constants = {k: v for k, v in constants.items() if k not in ("NATURAL", "ROWS")}

    def choose(machine: Machine, form: Form) -> Choice | None:
        if not is_few(form, norm):
            return None
        most = form.most(layer.out.count)
        if few:
            known = constants | _few_tile(layer, most)
            return Choice((extent(layer.n, known["BLOCK_N"]),), known)
        tile = layer.tile(machine, form, rows.element_bytes)
        known = {
            **constants, **tile.constants, **of_machine(machine), "MOST": most,
            "PREFETCH": prefetched(machine, form),
        }  # fmt: skip
        return Choice((extent(layer.n, tile.block_n),), known, tile.num_warps, tile.num_stages)

    function = "normed_linear.normed_gemv" if few else "normed_linear.normed_rows"
    program.launch(function, given, choose)
    program.nodes = program.nodes[-1:]


def _normed_operands(
    program: Program,
    rows: NormedRows,
    operands: Mapping[str, Operand],
    constants: Mapping[str, Any],
) -> dict[str, Operand]:
    """A layer's `operands` where x is what its norm reads; no pointer is to the norm's result."""
    x = program.read(rows.x)
    found = {"x_ptr": x}
    if rows.added is not None:
        found["added_ptr"] = program.read(rows.added)
    if rows.scale is not None:
        found["scale_ptr"] = program.read(rows.scale)
    if rows.total is not None:
        found["sum_ptr"] = program.write(rows.total)
    return found | {
        "w_ptr": operands["w_ptr"],
        "bias_ptr": operands["bias_ptr"] if constants["HAS_BIAS"] else x,
        "residual_ptr": operands["residual_ptr"] if constants["HAS_RESIDUAL"] else x,
        "out_ptr": operands["out_ptr"],
        "rows": operands["rows"],
    }


def _few_tile(layer: Layer, count: int) -> dict[str, Any]:
    """The tile of a layer without tensor cores, for `count` rows."""
    block_n = 2 * PANEL if layer.op.gated else 8
    return {"ROWS": count, "BLOCK_N": block_n, "BLOCK_K": 4096 // block_n, "UNROLL": 4}


def _launch_few(
    program: Program,
    layer: Layer,
    operands: Mapping[str, Operand],
    alone: Callable[[Form], bool],
) -> None:
    """The same layer for one or two rows on CUDA cores."""
    without = {"NATURAL", "ROWS"}
    given = {name: value for name, value in layer.constants.items() if name not in without}

    def choose(machine: Machine, form: Form) -> Choice | None:
        count = form.most(layer.out.count)
        if count > FEW_ROWS or not alone(form):
            return None
        known = given | _few_tile(layer, count)
        return Choice((extent(layer.n, known["BLOCK_N"]),), known)

    kept = {name: value for name, value in operands.items() if name != "index_ptr"}
    program.launch("gemv.gemv_rows", kept, choose)


@emits(GroupedLinear)
def grouped_linear(program: Program, node: Node, op: GroupedLinear) -> None:
    x_values, weight, bias, row_index, offsets = op.split_groups(node.inputs)
    if len(x_values) != 1:
        raise program.refuse("rows that are quantized")
    x = as_matrix(program, program.view(x_values[0]))
    out = as_matrix(program, program.result(node.output))
    layer = layer_of(program, op, x, out, weight)
    experts = layer.experts
    operands = {
        "x_ptr": program.read(layer.x.view),
        "w_ptr": weight_pointer(program, weight),
        "bias_ptr": program.read(layer.x.view if bias is None else bias),
        "index_ptr": program.read(layer.x.view if row_index is None else _i32(program, row_index)),
        "offsets_ptr": program.read(_i32(program, offsets)),
        "out_ptr": program.write(layer.out.view),
    }

    def choose(machine: Machine, form: Form) -> Choice:
        tile = layer.tile(machine, form)
        constants = {
            **layer.constants, **tile.constants, "EXPERTS": experts, "HAS_BIAS": bias is not None,
            "GATHER": row_index is not None, **of_machine(machine),
        }  # fmt: skip
        # Each expert's last tile may be short: at most one tile more for each.
        tiles = extent(layer.out.count, tile.block_t, add=experts * tile.block_t)
        grid = (extent(layer.n, tile.block_n), tiles)
        return Choice(grid, constants, tile.num_warps, tile.num_stages)

    program.launch("linear.grouped_linear", operands, choose)


def _i32(program: Program, value: Value) -> View:
    view = program.view(value)
    if view.dtype is not DType.I32:
        raise program.refuse(f"rows chosen by {view.dtype}")
    return dense(program, view)
