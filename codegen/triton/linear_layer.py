"""What the launches of one linear layer share: its rows, its weight, constants and tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...artifact.launch_plan import Pointer
from ...ir.graph import Value
from ...ir.ops.linear import Linear
from ...ir.types import Dim, DType
from ...passes.fuse_gated import ACTIVATIONS
from ...weights.formats.registry import is_quantized
from ..views import View, is_dense, packed_tail, rows
from .emit_generated import dense
from .forms import Form
from .layout import in_panels, row_stride
from .linear_tiles import Tile, linear_tile
from .machines import Machine
from .operands import POINTER, Operand
from .program import Program
from .tile_table import TileRow

EARLY_TILES = 4
"""Of K: 8 to 32 KB of weights for each program, for which L2 has room. Not measured."""


@dataclass(frozen=True)
class Matrix:
    """A view as rows of contiguous elements; `stride` elements from one to the next."""

    view: View
    count: Dim
    stride: int


@dataclass(frozen=True)
class Layer:
    """What launches of one layer share. `constants`: of all of them. `tiles`: see `Program`."""

    op: Linear
    weight: Value
    x: Matrix
    out: Matrix
    constants: Mapping[str, Any]
    experts: int = 1
    tiles: Sequence[TileRow] = ()

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

    def tile(self, machine: Machine, form: Form, x_size: int = 0) -> Tile:
        """The tile for as many rows as the form has; x_size: bytes that are read for an element of
        x, where these are more than its own."""
        return linear_tile(
            machine,
            self.weight.type.dtype,
            self.n,
            self.k,
            form.most(self.out.count),
            x_size=x_size or self.x.view.dtype.itemsize,
            experts=self.experts,
            tiles=self.tiles,
        )


def layer_of(program: Program, op: Linear, x: Matrix, out: Matrix, weight: Value) -> Layer:
    """Checks that the kernels can do it.

    Raises:
        LlmcError: LLMC-E0401, a weight that isn't constant, or its type.
    """
    dtype = weight.type.dtype
    if not weight.is_constant or not (dtype.is_float or is_quantized(dtype)):
        raise program.refuse(f"a weight {weight.type}, or one that isn't constant")
    if op.act not in ("", *ACTIVATIONS):
        raise program.refuse(f"activation {op.act} in an epilogue")
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
    return Layer(op, weight, x, out, constants, experts, program.tiles)


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


def of_machine(machine: Machine) -> dict[str, bool]:
    return {
        "NATURAL": machine.multiplies_from_shared,
        "OVERLAPS": machine.overlaps,
        "PORTABLE": False,
    }


def prefetched(machine: Machine, form: Form) -> int:
    """Tiles of K that programs ask for before they wait. Many rows aren't bound by memory, and
    their programs are too many to be there before the kernel in front has ended."""
    return EARLY_TILES if machine.overlaps and not form.wide else 0


def same_place(out: Matrix, added: Matrix) -> bool:
    """The residual's elements lie as the result's do, so a thread may overwrite what it read."""
    same = (out.view.dtype, out.view.shape) == (added.view.dtype, added.view.shape)
    return same and is_dense(out.view) and is_dense(added.view) and added.view.offset == 0
