"""Kernels made for what no hand-written one does: their text and what they are launched with.

In: the node whose results a kernel stores, the nodes computed inside it, views of what lies in
memory. Out: a `Generated` kernel. A map has a thread for each element of the result; what reads
along a dimension has tiles of ROWS rows by COLUMNS of that dimension. Tiles depend on the sizes
that are known, so the order of sums is the same for any number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.graph import Node, Value
from ...ir.ops import CumSum, MatMul, Reduce, Scatter, Softmax, TopK
from ...ir.types import Dim, DType, Sym
from .. import views
from ..views import View
from .expressions import Term, converted, held_as
from .render import render
from .tiles import Axis, Tile, frame_of, prod_of

BLOCK = 512
TILE = 1024
"""Elements of a tile of rows."""
SINGLE = 4096
"""Elements of a row that fit one tile, so that softmax reads them once."""
_LEAST = {DType.I64: -(2**63), DType.I32: -(2**31), DType.I8: -128, DType.U8: 0}


@dataclass(frozen=True)
class Generated:
    """A kernel's text and its launch.

    `pointers`: the storage behind each pointer, in the order of the parameters; `size`: the symbol
    whose value follows them, if there is one. The grid is `ceil(count / share)` programs.
    """

    name: str
    source: str
    pointers: Mapping[str, View]
    written: frozenset[str]
    size: Sym | None
    constants: Mapping[str, int]
    count: Dim
    share: int


@dataclass(frozen=True)
class Subject:
    """What a kernel is made for. `read` and `write` say where values lie or shall lie."""

    node: Node
    inside: frozenset[Node]
    read: Callable[[Value], View]
    write: Callable[[Value], View]
    most: Callable[[Dim], int]

    def tile(self, shape: Sequence[Dim], axes: Sequence[Axis]) -> Tile:
        members = self.inside | {self.node}
        return Tile(tuple(shape), tuple(axes), self.read, members, self.most)


def generate_kernel(subject: Subject) -> Generated:
    """The kernel of a group's last node.

    Raises:
        ValueError: this use of the op isn't covered; the message says which.
    """
    makers = {
        Reduce: _reduce,
        Softmax: _softmax,
        CumSum: _cumsum,
        TopK: _top_k,
        MatMul: _matmul,
        Scatter: _scatter,
    }
    return makers.get(type(subject.node.op), _map)(subject)


def copy_kernel(source: View, target: View, most: Callable[[Dim], int]) -> Generated:
    """A kernel that copies `source` to `target`, which has the same shape."""
    tile = Tile(target.shape, (_flat(target.shape),), _nothing, frozenset(), most)
    return _finish_map(tile, "copy", "map", target, tile.load(source, frame_of(target.shape)), {})


def _nothing(value: Value) -> View:
    raise LookupError(f"{value} is not read here")


# ---- one thread an element --------------------------------------------------------------------


def _flat(shape: Sequence[Dim]) -> Axis:
    return Axis("i", tuple(views.storage_order(shape)))


def _map(subject: Subject) -> Generated:
    value = subject.node.output
    tile = subject.tile(value.type.shape, [_flat(value.type.shape)])
    term = tile.value(value, frame_of(value.type.shape))
    out = subject.write(value)
    return _finish_map(tile, subject.node.op.mnemonic, "map", out, term, {})


def _finish_map(
    tile: Tile, kind: str, template: str, out: View, term: Term, facts: Mapping[str, object]
) -> Generated:
    axis = tile.axes[0]
    place = _place(tile, out, "out_ptr", [axis])
    return _finish(
        tile,
        f"{kind}_elements",
        template,
        {"BLOCK": BLOCK},
        {"lines": tile.lines, "out": place, "value": term.text, **facts},
        axis,
        BLOCK,
    )


def _scatter(subject: Subject) -> Generated:
    """Every element of the result looks for itself among the indices, the last one wins."""
    node, op = subject.node, subject.node.op
    assert isinstance(op, Scatter)
    x, index, source = node.inputs
    shape = node.output.type.shape
    tile, frame = subject.tile(shape, [_flat(shape)]), frame_of(shape)
    steps, dim = index.type.shape[op.dim], op.dim % len(shape)
    if not isinstance(steps, int) or not isinstance(shape[dim], int):
        raise ValueError("a scatter along a symbolic dimension")
    term, here = tile.value(x, frame), tile.place(dim, frame)
    lines, tile.lines = tile.lines, []
    wanted = _step_of(tile, subject.read(index), dim, shape)
    added = _step_of(tile, views.expand(subject.read(source), index.type.shape), dim, shape)
    step_lines, tile.lines = tile.lines, lines
    dtype = node.output.type.dtype
    value = converted(added, dtype)
    update = converted(Term(f"(y + {value})", DType.F32), dtype) if op.accumulate else value
    if op.accumulate and not dtype.is_float:
        update = f"y + {value}"
    facts = {
        "type": held_as(dtype),
        "steps": steps,
        "step_lines": step_lines,
        "hit": f"{wanted.text} == {here.text}",
        "update": update,
    }
    out = subject.write(node.output)
    return _finish_map(tile, "scatter", "scatter", out, replace(term, dtype=dtype), facts)


def _step_of(tile: Tile, view: View, dim: int, shape: Sequence[Dim]) -> Term:
    """Element `step` along `dim` of a view whose other dimensions go with the tile."""
    if view.storage is None:
        return tile.number(view.literal, view.dtype)
    strides = list(view.strides)
    stride, strides[dim] = strides[dim], 0
    rest = replace(view, shape=tuple(shape), strides=tuple(strides))
    address = tile.address(rest, frame_of(shape))
    place = replace(address, text=f"{address.text} + step * {stride}")
    return tile.load_at(rest, place, frame_of(shape), ("step", view))


# ---- along a dimension ------------------------------------------------------------------------


@dataclass(slots=True)
class _Rows:
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
            return _place(self.tile, out, name, self.tile.axes)
        return _place(self.tile, _fixed(out, self.across), name, [self.row])

    def finish(self, template: str, facts: Mapping[str, object]) -> Generated:
        wide = self.tile.wide
        tile = {
            "lines": self.tile.lines,
            "value": self.term.text,
            "size": self.size,
            "widen": _widen(wide),
        }
        rows = max(1, TILE // self.columns)
        return _finish(
            self.tile,
            f"{template}_rows",
            template,
            {"ROWS": rows, "COLUMNS": self.columns},
            {"tile": tile, **facts},
            self.row,
            rows,
        )


def _rows(subject: Subject, shape: Sequence[Dim], dims: Sequence[int], most: int = TILE) -> _Rows:
    """Tiles over `shape` that reduce `dims`."""
    across = tuple(sorted(d % len(shape) for d in dims))
    order = views.storage_order(shape)
    size = prod_of(shape[d] for d in across)
    if not isinstance(size, int):
        raise ValueError("along a symbolic dimension")
    row = Axis("row", tuple(d for d in order if d not in across))
    tile = subject.tile(shape, [row, Axis("column", across)])
    columns = min(max(1 << (size - 1).bit_length(), 4), most)
    return _Rows(subject, tile, size, across, columns)


def _reading(subject: Subject, value: Value, dims: Sequence[int], most: int = TILE) -> _Rows:
    """Rows of `value`, computed inside or loaded."""
    shape = value.type.shape
    rows = _rows(subject, shape, dims, most)
    rows.term = rows.tile.value(value, frame_of(shape))
    return rows


def _reduce(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, Reduce)
    x = node.inputs[0]
    rows = _reading(subject, x, op.dims)
    out = _kept_dims(subject.write(node.output), x.type.rank, rows.across)
    if op.fn == "argmax":
        return _argmax(rows, out, len(op.dims))
    facts = _fold(op.fn, x.type.dtype, rows.size)
    dtype = facts.pop("dtype")
    assert isinstance(dtype, DType)
    rows.term = replace(rows.term, text=converted(rows.term, dtype), dtype=dtype)
    place = rows.place(out, whole=False)
    return rows.finish("reduce", {"out": place, "type": held_as(dtype), **facts})


def _fold(fn: str, of: DType, size: int) -> dict[str, object]:
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


def _order(rows: _Rows, of: DType) -> dict[str, object]:
    """Numbers that order as argmax and top-k do: NaN first, zeros alike."""
    dtype = _ordered(of)
    if dtype.is_float:
        return {"order": "order_of_float(x)", "type": "tl.int32", "start": _LEAST[DType.I32]}
    wide = DType.I64 if dtype == DType.I64 else DType.I32
    facts = {"order": f"x.to({held_as(wide)})", "type": held_as(wide), "start": _LEAST[wide]}
    return facts


def _argmax(rows: _Rows, out: View, dims: int) -> Generated:
    if dims != 1:
        raise ValueError("argmax over several dimensions")
    facts = _order(rows, rows.term.dtype)
    return rows.finish("argmax", {"out": rows.place(out, whole=False), **facts})


def _softmax(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, Softmax)
    rows = _reading(subject, node.inputs[0], [op.dim], SINGLE)
    if rows.size > SINGLE:
        rows.columns = TILE
    out = rows.place(subject.write(node.output))
    result = "(x - largest) - tl.log(total)" if op.log else "tl.div_rn(e, total)"
    facts = {"out": out, "single": rows.size <= SINGLE, "log": op.log, "result": result}
    return rows.finish("softmax", facts)


def _cumsum(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, CumSum)
    rows = _reading(subject, node.inputs[0], [op.dim])
    dtype = DType.F32 if rows.term.dtype.is_float else DType.I64
    rows.term = replace(rows.term, text=converted(rows.term, dtype))
    out = rows.place(subject.write(node.output))
    return rows.finish("cumsum", {"out": out, "type": held_as(dtype)})


def _top_k(subject: Subject) -> Generated:
    node, op = subject.node, subject.node.op
    assert isinstance(op, TopK)
    x = node.inputs[0]
    rows = _reading(subject, x, [-1])
    held = _ordered(x.type.dtype)
    rows.term = replace(rows.term, text=converted(rows.term, held))
    values, indices = (subject.write(v) for v in node.outputs)
    facts = {
        **_order(rows, x.type.dtype),
        "k": op.k,
        "held": held_as(held),
        "out": rows.place(values, whole=False) | {"step": values.strides[-1]},
        "indices": rows.place(indices, "indices_ptr", whole=False) | {"step": indices.strides[-1]},
    }
    return rows.finish("top_k", facts)


def _matmul(subject: Subject) -> Generated:
    """The sum of a row times a column for each element: small products only."""
    node = subject.node
    a, b = (subject.read(v) for v in node.inputs)
    out = subject.write(node.output)
    shape = (*node.output.type.shape, a.shape[-1])
    frame = frame_of(shape)
    rows = _rows(subject, shape, [-1])
    turned = views.permute(b, [*range(b.rank - 2), b.rank - 1, b.rank - 2])
    left, right = (
        rows.tile.load(views.expand(_unit(v, at), shape), frame, side)
        for v, at, side in ((a, a.rank - 1, "left"), (turned, b.rank - 2, "right"))
    )
    facts = _fold("sum", node.output.type.dtype, rows.size)
    dtype = facts.pop("dtype")
    assert isinstance(dtype, DType)
    product = rows.tile.named(
        "v", "product", f"({converted(left, dtype)}) * ({converted(right, dtype)})", (), dtype
    )
    rows.term = product
    place = rows.place(_unit(out, out.rank), whole=False)
    return rows.finish("reduce", {"out": place, "type": held_as(dtype), **facts})


# ---- views and text ---------------------------------------------------------------------------


def _unit(view: View, at: int) -> View:
    """`view` with a dimension of size 1 before `at`."""
    shape, strides = [*view.shape], [*view.strides]
    shape.insert(at, 1)
    strides.insert(at, 0)
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def _fixed(view: View, dims: Sequence[int]) -> View:
    """`view` at the start of `dims`."""
    strides = tuple(0 if i in dims else s for i, s in enumerate(view.strides))
    return replace(view, strides=strides)


def _kept_dims(out: View, rank: int, across: Sequence[int]) -> View:
    """`out` with the reduced dimensions put back as size 1."""
    if out.rank < rank:
        for dim in across:
            out = _unit(out, dim)
    return out


def _place(tile: Tile, out: View, name: str, axes: Sequence[Axis]) -> dict[str, object]:
    """Address and mask of what is stored."""
    address = tile.address(out, frame_of(tile.shape))
    missing = [a.name for a in axes if a.name not in address.axes]
    text = address.text + "".join(f" + {name} * 0" for name in missing)
    return {
        "place": f"{tile.pointer(out, name)} + {text}",
        "mask": tile.mask(a.name for a in axes),
    }


def _widen(wide: bool) -> str:
    return ".to(tl.int64)" if wide else ""


def _finish(
    tile: Tile,
    name: str,
    template: str,
    constants: Mapping[str, int],
    facts: Mapping[str, object],
    axis: Axis,
    share: int,
) -> Generated:
    """Print the kernel: pointers read, then written, the size, constants."""
    count = tile.count(axis)
    size = Sym(count.name) if isinstance(count, Sym) else None
    written = [p for p in tile.pointers if not p.startswith("x")]
    pointers = [p for p in tile.pointers if p.startswith("x")] + written
    parameters = [*pointers, *(["size"] if size else [])]
    parameters += [f"{c}: tl.constexpr" for c in (*constants, "OVERLAPS", "PORTABLE")]
    total = str(count) if isinstance(count, int) else _times(count.scale)
    facts = {**facts, "count": total, "widen": _widen(tile.wide)}
    return Generated(
        name,
        render(template, name, parameters, facts),
        {p: replace(tile.pointers[p], offset=0) for p in pointers},
        frozenset(written),
        size,
        constants,
        count,
        share,
    )


def _times(scale: int) -> str:
    return "size" if scale == 1 else f"size * {scale}"
