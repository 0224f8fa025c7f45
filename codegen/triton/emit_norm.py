"""Normalization: launches of `kernels/norm.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.graph import Node, Value
from ...ir.ops import Norm
from ...ir.types import DType
from ..views import View
from .emit_generated import dense
from .emitters import emits
from .forms import Form
from .machines import Machine
from .normed_rows import NormedRows
from .operands import Choice, Operand, extent
from .program import Program
from .prologues import is_few
from .row_views import GroupedRows, group_of, grouped, takes_place_of

_PIECE = 8192
"""Elements of the longest rows that a program holds; longer ones are read in such pieces."""
_PROGRAM = 512
"""Elements that a program has at least: short rows share one."""


@dataclass(frozen=True, slots=True)
class NormTiles:
    """What the length of rows decides: rows and elements of a program, and its warps. Their number
    decides nothing, so that a row's sums have one order in every step."""

    rows: int
    block_n: int
    num_warps: int


def norm_tiles(n: int) -> NormTiles:
    """A thread has 16 elements of a long row, or 32 of the longest."""
    block = min(max(1 << (n - 1).bit_length(), 32), _PIECE)
    return NormTiles(max(1, _PROGRAM // block), block, min(max(block // 512, 1), 16))


@emits(Norm)
def norm(program: Program, node: Node, op: Norm) -> None:
    x, residual, weight, bias = op.split(node.inputs)
    vectors = {"weight_ptr": _vector(program, weight), "bias_ptr": _vector(program, bias)}
    operands = [program.view(value) for value in (x, residual) if value is not None]
    group = group_of(*operands)
    if group is None:
        operands, group = [dense(program, view) for view in operands], 1
    results = [program.result(value) for value in node.outputs]
    total = results.pop(0) if op.add else None
    inputs = {"x_ptr": operands[0], "residual_ptr": operands[1] if op.add else None}
    outputs = {"sum_ptr": total, "out_ptr": results[0]}
    outputs |= dict(zip(("scale_ptr", "total_ptr"), results[1:] or (None, None), strict=True))
    views = {**inputs, **vectors, **outputs}
    pointers = {
        name: (program.write if name in outputs else program.read)(view)
        for name, view in views.items()
        if view is not None
    }
    absent = {name: None for name, view in views.items() if view is None}
    constants = absent | _strides(inputs | outputs, group) | _facts(op, operands[0], group)
    places = _places(total, results[0], operands)
    if node in program.prologues.readers:
        assert group == 1, "rows of a matrix"
        program.normed[node] = _normed(op, operands, vectors["weight_ptr"], total)
        places = []
    _launch(program, node, pointers, constants, grouped(operands[0], group), places)


def _normed(op: Norm, operands: list[View], weight: View | None, total: View | None) -> NormedRows:
    """What the readers of a norm need to compute it."""
    alone = NormedRows(operands[0], _stride(operands[0], 1), weight, op.eps)
    if total is None:
        return alone
    strides = _stride(operands[1], 1), _stride(total, 1)
    return replace(
        alone, added=operands[1], added_stride=strides[0], total=total, total_stride=strides[1]
    )


def _places(total: View | None, out: View, operands: list[View]) -> list[tuple[View, View]]:
    """Results that may lie where an operand was: a program reads a row before it writes it."""
    pairs = [(out, operands[0])] if total is None else [(out, operands[0]), (total, operands[1])]
    return [(a, b) for a, b in pairs if takes_place_of(a, b)]


def _launch(
    program: Program,
    node: Node,
    pointers: dict[str, Operand],
    constants: dict[str, object],
    x: GroupedRows,
    places: list[tuple[View, View]],
) -> None:
    n = x.view.shape[-1]
    assert isinstance(n, int)
    tiles = norm_tiles(n)
    folded = node in program.prologues.readers
    tile = {"ROWS": tiles.rows, "BLOCK_N": tiles.block_n, "ORDERED": folded}

    def choose(machine: Machine, form: Form) -> Choice | None:
        if folded and is_few(form, node):
            return None
        known = constants | tile
        return Choice((extent(x.count, tiles.rows),), known, num_warps=tiles.num_warps)

    program.launch(
        "norm.norm_rows",
        {**pointers, "rows": program.size(x.count)},
        choose,
        in_place=places,
    )


def _strides(views: dict[str, View | None], group: int) -> dict[str, object]:
    strides = {
        f"{name.removesuffix('_ptr').upper()}_STRIDE": 0 if view is None else _stride(view, group)
        for name, view in views.items()
        if name != "total_ptr"
    }
    return dict(strides)


def _stride(view: View, group: int) -> int:
    return grouped(view, group).stride


def _facts(op: Norm, x: View, group: int) -> dict[str, object]:
    return {
        "GROUP": group, "N": x.shape[-1], "EPS": op.eps, "CENTERED": op.fn == "layer_norm",
        "ADD": op.add, "WEIGHT": op.weight, "BIAS": op.bias,
        "QUANTIZE": "block" if op.quantize else "",
    }  # fmt: skip


def _vector(program: Program, value: Value | None) -> View | None:
    """An optional contiguous vector f32 or in 16 bits."""
    if value is None:
        return None
    view = program.view(value)
    floats = view.dtype in (DType.F32, DType.BF16, DType.F16)
    return dense(program, view, None if floats else DType.F32)
