"""Tiles of generated kernels: index variables, addresses of strided views, values as expressions.

In: the dimensions that a kernel runs over (`Axis` after `Axis`), the views of stored values, the
nodes that are computed inside. Out: lines of Triton that load and compute a value's tile.
Statements are written once each: what is asked for again has a name already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.graph import Node, Value
from ...ir.ops import Concat, Gather, Iota, LogitsRows
from ...ir.scalar import scalar_of
from ...ir.types import Dim, DType, Sym
from .. import views
from ..views import View
from .expressions import Term, expression, held_as, literal

LARGEST_I32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Axis:
    """One index variable, called `name`; it counts through `dims`, the outermost first.

    `dims` are places in the kernel's shape. The mask of the variable is `NAME_in`; one that can't
    be past its end has none.
    """

    name: str
    dims: tuple[int, ...]
    masked: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """How a value lies in the kernel's shape: its own shape, and where it starts.

    `within`: a mask of the places that the value has (parts of a concatenation), or ''.
    """

    shape: tuple[Dim, ...]
    starts: tuple[int, ...]
    within: str = ""
    axes: frozenset[str] = frozenset()


def frame_of(shape: Sequence[Dim]) -> Frame:
    """All of the kernel's shape."""
    return Frame(tuple(shape), (0,) * len(shape))


@dataclass(slots=True)
class Tile:
    """The lines of one tile in the making.

    `most`: the largest value of a dimension; it decides whether addresses fit 32 bits. `places`:
    the addresses that are read behind each pointer.
    """

    shape: tuple[Dim, ...]
    axes: tuple[Axis, ...]
    read: Callable[[Value], View]
    members: frozenset[Node]
    most: Callable[[Dim], int]
    lines: list[str] = field(default_factory=list)
    pointers: dict[str, View] = field(default_factory=dict)
    places: dict[str, set[str]] = field(default_factory=dict)
    _names: dict[object, Term] = field(default_factory=dict)
    _parameters: dict[object, str] = field(default_factory=dict)

    # ---- indices --------------------------------------------------------------------------

    @property
    def wide(self) -> bool:
        """An index or address may need 64 bits."""
        sizes = [prod_of(self.shape)]
        sizes += [view.storage.numel for view in self.pointers.values() if view.storage]
        return max(map(self.most, sizes)) > LARGEST_I32 // 2  # masked lanes run past the end

    def count(self, axis: Axis) -> Dim:
        """How many values the index variable takes."""
        return prod_of(self.shape[d] for d in axis.dims)

    def coordinate(self, axis: Axis, dims: Sequence[int]) -> str:
        """The index through `dims`, neighbours among the dimensions of `axis`."""
        places = [axis.dims.index(d) for d in dims]
        outer = [d for d in axis.dims[: places[0]] if self.shape[d] != 1]
        step = prod(_known(self.shape[d]) for d in axis.dims[places[-1] + 1 :])
        text = axis.name if step == 1 else f"{axis.name} // {step}"
        if outer:
            size = prod(_known(self.shape[d]) for d in dims)
            text = f"{text} % {size}" if step == 1 else f"({text}) % {size}"
        if text == axis.name:
            return text
        return self.named("c", ("coordinate", text), text, {axis.name}).text

    def place(self, dim: int, frame: Frame) -> Term:
        """Where along dimension `dim` of `frame` the tile's elements are: i32 or wider."""
        size = self.shape[dim]
        axis = next((a for a in self.axes if dim in a.dims), None)
        if size == 1 or axis is None:
            return Term("0", DType.I32)
        text = self.coordinate(axis, [dim])
        if frame.starts[dim]:
            text = f"({text} - {frame.starts[dim]})"
        return Term(text, DType.I32, frozenset({axis.name}))

    def address(self, view: View, frame: Frame) -> Term:
        """Offset of each of the tile's elements in the storage of `view` (of frame's rank)."""
        offset = view.offset - sum(a * s for a, s in zip(frame.starts, view.strides, strict=True))
        parts: list[str] = []
        used: set[str] = set()
        for axis in self.axes:
            for dims, stride in self._runs(axis, view.strides):
                index = self.coordinate(axis, dims)
                parts.append(index if stride == 1 else f"{index} * {stride}")
                used.add(axis.name)
        if offset or not parts:
            parts.append(str(offset))
        return Term(" + ".join(parts), DType.I32, frozenset(used))

    def _runs(self, axis: Axis, strides: Sequence[int]) -> list[tuple[list[int], int]]:
        """Neighbouring dimensions of `axis` that one stride goes through; no stride of 0."""
        runs: list[tuple[list[int], int]] = []
        for dim in axis.dims:
            size, stride = self.shape[dim], strides[dim]
            if size == 1:
                continue
            if runs and isinstance(size, int) and runs[-1][1] == size * stride:
                runs[-1] = ([*runs[-1][0], dim], stride)
            else:
                runs.append(([dim], stride))
        return [run for run in runs if run[1]]

    # ---- values ---------------------------------------------------------------------------

    def value(self, value: Value, frame: Frame) -> Term:
        """The tile of `value`, broadcast to `frame`, computed or loaded."""
        number = scalar_of(value)
        if number is not None:
            return self.number(repr(number), value.type.dtype)
        key = (value, frame)
        known = self._names.get(key)
        if known is None:
            node = value.producer
            if node is not None and isinstance(node.op, Iota):
                known = self._iota(value, frame)
            elif node is not None and node in self.members:
                known = self.computed(node, frame)
            else:
                known = self.load(views.expand(self.read(value), frame.shape), frame, value)
            self._names[key] = known
        return known

    def computed(self, node: Node, frame: Frame) -> Term:
        """The tile of the result of an elementwise node."""
        op, to = node.op, node.output.type.dtype
        if isinstance(op, Concat):
            return self._concat(node, op, frame)
        if isinstance(op, Gather):
            return self._gather(node, op, frame)
        if isinstance(op, LogitsRows):
            return self._rows(node, frame)
        terms = [self.value(v, frame) for v in node.inputs]
        text = expression(op, terms, [v.type for v in node.inputs], to)
        axes = frozenset[str]().union(*(t.axes for t in terms))
        return self.named("v", (node, frame), text, axes, to)

    def number(self, text: str, dtype: DType) -> Term:
        """A constant, whose `text` is Python's for it."""
        value = (
            text == "True" if dtype == DType.BOOL else float(text) if dtype.is_float else int(text)
        )
        text = literal(value, dtype)
        return self.named("k", (text, dtype), f"tl.full([], {text}, {held_as(dtype)})", (), dtype)

    def load(self, view: View, frame: Frame, value: object = None) -> Term:
        """The elements of `view`, which has the shape of `frame`; f32 of any float."""
        if view.storage is None:
            return self.number(view.literal, view.dtype)
        address = self.address(view, frame)
        return self.load_at(view, address, frame, (value, view, frame))

    def load_at(self, view: View, address: Term, frame: Frame, key: object) -> Term:
        """What lies at `address` in the storage of `view`, 0 outside of the tile's masks."""
        axes = address.axes | frame.axes
        place = address.text + "".join(f" + {a} * 0" for a in sorted(axes - address.axes))
        mask = self.mask(axes, frame.within)
        self.places.setdefault(self.pointer(view), set()).add(place)
        text = f"tl.load({self.pointer(view)} + {place}{mask}{', other=0' if mask else ''})"
        if view.dtype in (DType.BF16, DType.F16):
            text += ".to(tl.float32)"
        return self.named("x", ("load", key), text, axes, view.dtype)

    def mask(self, axes: Iterable[str], within: str = "") -> str:
        """The argument of a load or store that varies along `axes`, or ''."""
        chosen = set(axes)
        masks = [f"{a.name}_in" for a in self.axes if a.masked and a.name in chosen]
        masks += [within] if within else []
        return f", mask={' & '.join(masks)}" if masks else ""

    def pointer(self, view: View, name: str = "") -> str:
        """The kernel's parameter that points to the start of the storage of `view`."""
        assert view.storage is not None
        key = (view.storage, name)
        if key not in self._parameters:
            self._parameters[key] = name or f"x{len(self._parameters)}_ptr"
            self.pointers[self._parameters[key]] = view
        return self._parameters[key]

    def named(
        self, kind: str, key: object, text: str, axes: Iterable[str], dtype: DType = DType.I32
    ) -> Term:
        """A variable that holds `text`, written once for one `key`."""
        known = self._names.get(("named", key))
        if known is None:
            known = Term(f"{kind}{len(self._names)}", dtype, frozenset(axes))
            self._names["named", key] = known
            self.lines.append(f"{known.text} = {text}")
        return known

    # ---- nodes that move elements -----------------------------------------------------------

    def _iota(self, value: Value, frame: Frame) -> Term:
        place = self.place(len(frame.shape) - 1, frame)
        if value.type.shape[-1] == 1 or place.text == "0":
            return self.number("0", value.type.dtype)
        text = f"({place.text}).to({held_as(value.type.dtype)})"
        return self.named("v", (value, frame), text, place.axes, value.type.dtype)

    def _concat(self, node: Node, op: Concat, frame: Frame) -> Term:
        """Each part where it lies: its loads are masked, and a select picks it."""
        dim = op.dim % len(frame.shape)
        here = self.place(dim, frame)
        parts = [part for part in parts_of(node, op) if part[2]]
        if len(parts) == 1:
            return self.value(parts[0][0], frame)
        result: Term | None = None
        for part, start, length in parts:
            shape = (*frame.shape[:dim], length, *frame.shape[dim + 1 :])
            starts = list(frame.starts)
            starts[dim] += start
            text = f"({here.text} >= {start}) & ({here.text} < {start + length})"
            if frame.within:
                text = f"{frame.within} & {text}"
            within = self.named("m", (text,), text, here.axes | frame.axes, DType.BOOL)
            inner = Frame(shape, tuple(starts), within.text, within.axes)
            term = self.value(part, inner)
            if result is None:
                result = term
                continue
            axes = term.axes | result.axes | within.axes
            select = f"tl.where({within.text}, {term.text}, {result.text})"
            result = self.named("v", (node, frame, start), select, axes, term.dtype)
        assert result is not None
        return result

    def _gather(self, node: Node, op: Gather, frame: Frame) -> Term:
        """Indices are kept inside, so that rows of padding read no strange memory."""
        table, index = self.read(node.inputs[0]), self.value(node.inputs[1], frame)
        size = table.shape[op.dim]
        assert isinstance(size, int)
        return self._lookup(node, table, op.dim, index, frame, size)

    def _rows(self, node: Node, frame: Frame) -> Term:
        table, wanted = self.read(node.inputs[0]), self.read(node.inputs[1])
        missing = len(frame.shape) - 1
        column = replace(
            wanted, shape=wanted.shape + (1,) * missing, strides=wanted.strides + (0,) * missing
        )
        index = self.load(views.expand(column, frame.shape), frame, node)
        return self._lookup(node, table, -len(frame.shape), index, frame, None)

    def _lookup(
        self, node: Node, table: View, dim: int, index: Term, frame: Frame, size: int | None
    ) -> Term:
        """`table` at `index` along `dim`, its other dimensions with the tile."""
        if table.storage is None:
            return self.number(table.literal, table.dtype)
        strides = list(table.strides)
        stride, strides[dim] = strides[dim], 0
        shape = list(table.shape)
        shape[dim] = frame.shape[dim]
        rest = views.expand(replace(table, shape=tuple(shape), strides=tuple(strides)), frame.shape)
        text = index.text
        if size is not None:
            text = f"tl.minimum(tl.maximum({text}, 0), {size - 1})"
        text = f"({text}).to({self.axes[0].name}.dtype)"
        at = self.named("v", (node, frame, "index"), text, index.axes)
        address = self.address(rest, frame)
        place = Term(f"{address.text} + {at.text} * {stride}", DType.I32, address.axes | at.axes)
        return self.load_at(rest, place, frame, (node, frame))


def parts_of(node: Node, op: Concat) -> list[tuple[Value, int, int]]:
    """The inputs of a concatenation: (value, start, length)."""
    found, start = [], 0
    for value in node.inputs:
        length = value.type.shape[op.dim]
        assert isinstance(length, int)
        found.append((value, start, length))
        start += length
    return found


def prod_of(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions, at most one of them a symbol."""
    result: Dim = 1
    for dim in dims:
        if isinstance(dim, Sym):
            assert isinstance(result, int)
            result = Sym(dim.name, dim.scale * result)
        else:
            result = (
                result * dim if isinstance(result, int) else Sym(result.name, result.scale * dim)
            )
    return result


def _known(dim: Dim) -> int:
    assert isinstance(dim, int), "a symbolic dimension is outermost"
    return dim
