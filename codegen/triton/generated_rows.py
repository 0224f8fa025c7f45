"""Generated kernels that read along a dimension: tiles of ROWS rows by COLUMNS of it.

In: a node and what is computed inside it. Out: its kernel: reductions, softmax, running sums,
top-k. Tiles depend on the sizes that are known, so the order of a row's sum is the
same whatever runs beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.graph import Value
from ...ir.ops import CumSum, Reduce, Softmax, TopK
from ...ir.types import Dim, DType
from .. import views
from ..views import View
from .expressions import Term, converted, held_as
from .generated_text import Generated, Subject, finish, place_of, widening, with_unit
from .tiles import Axis, Tile, frame_of, prod_of

TILE = 1024
"""Elements of a tile of rows."""
SINGLE = 4096
"""Elements of a row that fit one tile, so that softmax reads them once."""
_LEAST = {DType.I64: -(2**63), DType.I32: -(2**31), DType.I8: -128, DType.U8: 0}


@dataclass(slots=True)
class Rows:
    """A kernel of rows in the making: the tile, and the dimensions that a row goes through."""

    subject: Subject
    tile: Tile
    size: int
    across: tuple[int, ...]
    columns: int
    term: Term = field(default_factory=lambda: Term("", DType.F32))

    @property
    def row(self) -> Axis:
        return self.tile.axes[0]

    def place(self, out: View, name: str = "out_ptr", *, whole: bool = True) -> dict[str, object]:
        """Where results go: one for each element of the tile, or one a row."""
        if whole:
            return place_of(self.tile, out, name, self.tile.axes)
        return place_of(self.tile, _fixed(out, self.across), name, [self.row])

    def finish(self, template: str, facts: Mapping[str, object]) -> Generated:
        wide = self.tile.wide
        tile = {
            "lines": self.tile.lines,
            "value": self.term.text,
            "size": self.size,
            "widen": widening(wide),
        }
        rows = max(1, TILE // self.columns)
        return finish(
            self.tile,
            f"{template}_rows",
            template,
            {"ROWS": rows, "COLUMNS": self.columns},
            {"tile": tile, **facts},
            [(self.tile.count(self.row), rows)],
        )


def rows_of(subject: Subject, shape: Sequence[Dim], dims: Sequence[int], most: int = TILE) -> Rows:
    """Tiles over `shape` that reduce `dims`."""
    across = tuple(sorted(d % len(shape) for d in dims))
    order = views.storage_order(shape)
    size = prod_of(shape[d] for d in across)
    if not isinstance(size, int):
        raise ValueError("along a symbolic dimension")
    row = Axis("row", tuple(d for d in order if d not in across))
    tile = subject.tile(shape, [row, Axis("column", across)])
    columns = min(max(1 << (size - 1).bit_length(), 4), most)
    return Rows(subject, tile, size, across, columns)


def _reading(subject: Subject, value: Value, dims: Sequence[int], most: int = TILE) -> Rows:
    """Rows of `value`, computed inside or loaded."""
    shape = value.type.shape
    rows = rows_of(subject, shape, dims, most)
    rows.term = rows.tile.value(value, frame_of(shape))
    return rows


def reduce_kernel(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, Reduce)
    x = node.inputs[0]
    rows = _reading(subject, x, op.dims)
    out = _kept_dims(subject.write(node.output), x.type.rank, rows.across)
    if op.fn == "argmax":
        return _argmax(rows, out, len(op.dims))
    facts = fold(op.fn, x.type.dtype, rows.size)
    dtype = facts.pop("dtype")
    assert isinstance(dtype, DType)
    rows.term = replace(rows.term, text=converted(rows.term, dtype), dtype=dtype)
    place = rows.place(out, whole=False)
    return rows.finish("reduce", {"out": place, "type": held_as(dtype), **facts})


def fold(fn: str, of: DType, size: int) -> dict[str, object]:
    """How `a` takes in `x`, and the result of a row."""
    total = "tl.sum(a, 1, keep_dims=True)"
    whole = DType.F32 if of.is_float else DType.I64
    if fn == "mean":
        mean = f"tl.div_rn({total}, tl.full([], {float(size)}, tl.float32))"
        return {"dtype": whole, "start": 0, "update": "a + x", "result": mean}
    if fn == "sum":
        return {"dtype": whole, "start": 0, "update": "a + x", "result": total}
    if fn == "prod":
        result = "tl.reduce(a, 1, product, keep_dims=True)"
        return {"dtype": whole, "start": 1, "update": "a * x", "result": result}
    if fn in ("any", "all"):
        start, sign, pick = (0, "|", "max") if fn == "any" else (1, "&", "min")
        return {
            "dtype": DType.BOOL,
            "start": bool(start),
            "update": f"a {sign} x",
            "result": f"tl.{pick}(a.to(tl.int32), 1, keep_dims=True) != 0",
        }
    name = {"amax": "maximum", "amin": "minimum"}[fn]
    dtype = _ordered(of)
    least = 'float("-inf")' if dtype.is_float else str(_LEAST[dtype])
    if fn == "amin":
        least = 'float("inf")' if dtype.is_float else str(_most_of(dtype))
    result = f"tl.reduce(a, 1, {name}, keep_dims=True)"
    return {"dtype": dtype, "start": least, "update": f"{name}(a, x)", "result": result}


def _ordered(of: DType) -> DType:
    """The type in which numbers are compared."""
    return DType.F32 if of.is_float else DType.I32 if of == DType.BOOL else of


def _most_of(dtype: DType) -> int:
    return 255 if dtype == DType.U8 else -_LEAST[dtype] - 1


def _order(of: DType) -> dict[str, object]:
    """Numbers that order as argmax and top-k do: NaN first, zeros alike."""
    dtype = _ordered(of)
    if dtype.is_float:
        return {"order": "order_of_float(x)", "type": "tl.int32", "start": _LEAST[DType.I32]}
    wide = DType.I64 if dtype == DType.I64 else DType.I32
    return {"order": f"x.to({held_as(wide)})", "type": held_as(wide), "start": _LEAST[wide]}


def _argmax(rows: Rows, out: View, dims: int) -> Generated:
    if dims != 1:
        raise ValueError("argmax over several dimensions")
    facts = _order(rows.term.dtype)
    return rows.finish("argmax", {"out": rows.place(out, whole=False), **facts})


def softmax_kernel(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, Softmax)
    rows = _reading(subject, node.inputs[0], [op.dim], SINGLE)
    if rows.size > SINGLE:
        rows.columns = TILE
    out = rows.place(subject.write(node.output))
    result = "(x - largest) - tl.log(total)" if op.log else "tl.div_rn(e, total)"
    facts = {"out": out, "single": rows.size <= SINGLE, "log": op.log, "result": result}
    return rows.finish("softmax", facts)


def cumsum_kernel(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, CumSum)
    rows = _reading(subject, node.inputs[0], [op.dim])
    dtype = DType.F32 if rows.term.dtype.is_float else DType.I64
    rows.term = replace(rows.term, text=converted(rows.term, dtype))
    out = rows.place(subject.write(node.output))
    return rows.finish("cumsum", {"out": out, "type": held_as(dtype)})


def top_k_kernel(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, TopK)
    x = node.inputs[0]
    rows = _reading(subject, x, [-1])
    held = _ordered(x.type.dtype)
    rows.term = replace(rows.term, text=converted(rows.term, held))
    values, indices = (subject.write(v) for v in node.outputs)
    facts = {
        **_order(x.type.dtype),
        "k": op.k,
        "held": held_as(held),
        "out": rows.place(values, whole=False) | {"step": values.strides[-1]},
        "indices": rows.place(indices, "indices_ptr", whole=False) | {"step": indices.strides[-1]},
    }
    return rows.finish("top_k", facts)


def _fixed(view: View, dims: Sequence[int]) -> View:
    """`view` at the start of `dims`."""
    strides = tuple(0 if i in dims else s for i, s in enumerate(view.strides))
    return replace(view, strides=strides)


def _kept_dims(out: View, rank: int, across: Sequence[int]) -> View:
    """`out` with the reduced dimensions put back as size 1."""
    if out.rank < rank:
        for dim in across:
            out = with_unit(out, dim)
    return out
