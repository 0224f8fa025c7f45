"""Linear layers, of experts too: launches of `kernels/linear.py`, and of `kernels/gemv.py` where
rows may depend on their batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...artifact.launch_plan import Pointer
from ...ir.graph import Node, Value
from ...ir.ops.linear import GroupedLinear, Linear
from ...ir.tiles import PANEL
from ...ir.types import Dim, DType
from ...passes.fuse_gated import ACTIVATIONS
from ...weights.formats.registry import is_quantized
from ..views import View, is_dense, packed_tail, rows
from .emit_generated import dense
from .emitters import emits
from .forms import Form
from .layout import in_panels, row_stride
from .linear_tiles import Tile, linear_tile
from .machines import Machine
from .operands import POINTER, Choice, Operand, extent
from .program import Program

FEW_ROWS = 2
"""Up to so many rows are multiplied without tensor cores where that is allowed."""


@dataclass(frozen=True)
class Matrix:
    """A view as rows of contiguous elements; `stride` elements from one to the next."""

    view: View
    count: Dim
    stride: int


@dataclass(frozen=True)
class Layer:
    """What launches of one layer share. `constants`: of all of them."""

    op: Linear
    weight: Value
    x: Matrix
    out: Matrix
    constants: Mapping[str, Any]
    experts: int = 1

    @property
    def n(self) -> int:
        """Weight rows of one expert."""
        n = self.weight.type.shape[-2]
        assert isinstance(n, int)
        return n

    @property
    def k(self) -> int:
        k = self.weight.type.shape[-1]
        assert isinstance(k, int)
        return k

    def tile(self, machine: Machine, form: Form) -> Tile:
        """The tile for as many rows as the form has."""
        return linear_tile(
            machine,
            self.weight.type.dtype,
            self.n,
            self.k,
            form.most(self.out.count),
            x_size=self.x.view.dtype.itemsize,
            experts=self.experts,
        )


@emits(Linear)
def linear(program: Program, node: Node, op: Linear) -> None:
    x_values, weight, bias, residual = op.split(node.inputs)
    layer = _layer(program, node, op, x_values, weight)
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
        "index_ptr": program.read(layer.x.view),
        "out_ptr": program.write(layer.out.view),
        "rows": program.size(layer.out.count),
    }
    pairs = [(layer.out.view, added.view)] if added and _same_place(layer.out, added) else []
    few = not program.batch_invariant and not in_panels(weight.type.dtype)

    def choose(machine: Machine, form: Form) -> Choice | None:
        if few and form.most(layer.out.count) <= FEW_ROWS:
            return None
        tile = layer.tile(machine, form)
        constants = {
            **layer.constants, **tile.constants, "GROUP": tile.group, "GATHER": False,
            **_of_machine(machine),
        }  # fmt: skip
        grid = (extent(layer.n, tile.block_n), extent(layer.out.count, tile.block_t))
        return Choice(grid, constants, tile.num_warps, tile.num_stages)

    program.launch("linear.linear_rows", operands, choose, in_place=pairs)
    if few and any(form.most(layer.out.count) <= FEW_ROWS for form in program.forms):
        _launch_few(program, layer, operands)


def _launch_few(program: Program, layer: Layer, operands: Mapping[str, Operand]) -> None:
    """The same layer for one or two rows on CUDA cores."""
    without = {"NATURAL", "ROWS"}
    given = {name: value for name, value in layer.constants.items() if name not in without}

    def choose(machine: Machine, form: Form) -> Choice | None:
        count = form.most(layer.out.count)
        if count > FEW_ROWS:
            return None
        block_n = 2 * PANEL if layer.op.gated else 8
        constants = given | {
            "ROWS": count, "BLOCK_N": block_n, "BLOCK_K": 4096 // block_n, "UNROLL": 4,
            "PORTABLE": False,
        }  # fmt: skip
        return Choice((extent(layer.n, block_n),), constants)

    kept = {name: value for name, value in operands.items() if name != "index_ptr"}
    program.launch("gemv.gemv_rows", kept, choose)


@emits(GroupedLinear)
def grouped_linear(program: Program, node: Node, op: GroupedLinear) -> None:
    x_values, weight, bias, row_index, offsets = op.split_groups(node.inputs)
    layer = _layer(program, node, op, x_values, weight)
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
            "GATHER": row_index is not None, **_of_machine(machine),
        }  # fmt: skip
        # Each expert's last tile may be short: at most one tile more for each.
        tiles = extent(layer.out.count, tile.block_t, add=experts * tile.block_t)
        grid = (extent(layer.n, tile.block_n), tiles)
        return Choice(grid, constants, tile.num_warps, tile.num_stages)

    program.launch("linear.grouped_linear", operands, choose)


def _layer(
    program: Program, node: Node, op: Linear, x_values: tuple[Value, ...], weight: Value
) -> Layer:
    """Checks that the kernels can do it.

    Raises:
        LlmcError: LLMC-E0401, quantized rows, a weight that isn't constant, or its type.
    """
    dtype = weight.type.dtype
    if len(x_values) != 1:
        raise program.refuse("rows that are quantized")
    if not weight.is_constant or not (dtype.is_float or is_quantized(dtype)):
        raise program.refuse(f"a weight {weight.type}, or one that isn't constant")
    if op.act not in ("", *ACTIVATIONS):
        raise program.refuse(f"activation {op.act} in an epilogue")
    x = as_matrix(program, program.view(x_values[0]))
    out = as_matrix(program, program.result(node.output))
    *lead, n, k = weight.type.shape
    assert isinstance(n, int)
    assert isinstance(k, int)
    experts = lead[0] if lead else 1
    assert isinstance(experts, int)
    constants = {
        "N": n, "K": k, "OUT": op.out or n, "ROWS": experts * n,
        "W_STRIDE": 0 if in_panels(dtype) else row_stride(dtype, k),
        "X_STRIDE": x.stride, "OUT_STRIDE": out.stride,
        "FORMAT": str(dtype) if is_quantized(dtype) else "plain",
        "ACT": op.act, "GATED": op.gated, "SOFTCAP": float(op.softcap),
    }  # fmt: skip
    return Layer(op, weight, x, out, constants, experts)


def as_matrix(program: Program, view: View) -> Matrix:
    """`view` as rows, copied if it isn't laid out like that."""
    found = rows(view) if packed_tail(view, 1) else None
    if found is None:
        view = dense(program, view)
        found = rows(view)
        assert found is not None, "a dense view has rows"
    return Matrix(view, *found)


def weight_pointer(program: Program, weight: Value) -> Operand:
    """A pointer to a packed weight, all sections of it."""
    tensor, dtype = program.weights.packed(weight), weight.type.dtype
    type = POINTER.get(dtype, "*i8" if dtype is DType.I8C else "*u8")
    return Operand(type, Pointer("weights", tensor.offset, tensor.nbytes, "r", early=True))


def _of_machine(machine: Machine) -> dict[str, bool]:
    return {
        "NATURAL": machine.multiplies_from_shared,
        "OVERLAPS": machine.overlaps,
        "PORTABLE": False,
    }


def _i32(program: Program, value: Value) -> View:
    view = program.view(value)
    if view.dtype is not DType.I32:
        raise program.refuse(f"rows chosen by {view.dtype}")
    return dense(program, view)


def _same_place(out: Matrix, added: Matrix) -> bool:
    """The residual's elements lie as the result's do, so a thread may overwrite what it read."""
    same = (out.view.dtype, out.view.shape) == (added.view.dtype, added.view.shape)
    return same and is_dense(out.view) and is_dense(added.view) and added.view.offset == 0
