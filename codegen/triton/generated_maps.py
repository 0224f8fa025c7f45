"""Generated kernels with a thread for each element of the result.

In: a node and what is computed inside it. Out: its kernel: chains of elementwise ops, copies, and
scatters, where each element of the result looks for itself among the indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...ir.graph import Value
from ...ir.ops import Scatter
from ...ir.types import Dim, DType
from .. import views
from ..views import View
from .expressions import Term, converted, held_as
from .generated_text import Generated, Subject, finish, place_of
from .tiles import Axis, Tile, frame_of

BLOCK = 512
"""Elements of a program: four a thread, 16 bytes of f32."""


def copy_kernel(source: View, target: View, most: Callable[[Dim], int]) -> Generated:
    """A kernel that copies `source` to `target`, which has the same shape."""
    tile = Tile(target.shape, (_flat(target.shape),), _nothing, frozenset(), most)
    return _finish_map(tile, "copy", "map", target, tile.load(source, frame_of(target.shape)), {})


def _nothing(value: Value) -> View:
    raise LookupError(f"{value} is not read here")


def _flat(shape: Sequence[Dim]) -> Axis:
    return Axis("i", tuple(views.storage_order(shape)))


def map_kernel(subject: Subject) -> Generated:
    value = subject.node.output
    tile = subject.tile(value.type.shape, [_flat(value.type.shape)])
    term = tile.value(value, frame_of(value.type.shape))
    out = subject.write(value)
    return _finish_map(tile, subject.node.op.mnemonic, "map", out, term, {})


def _finish_map(
    tile: Tile, kind: str, template: str, out: View, term: Term, facts: Mapping[str, object]
) -> Generated:
    axis = tile.axes[0]
    place = place_of(tile, out, "out_ptr", [axis])
    kernel = finish(
        tile,
        f"{kind}_elements",
        template,
        {"BLOCK": BLOCK},
        {"lines": tile.lines, "out": place, "value": term.text, **facts},
        [(tile.count(axis), BLOCK)],
    )
    return replace(kernel, in_place=_in_place(tile, out, str(place["place"])))


def _in_place(tile: Tile, out: View, place: str) -> tuple[str, ...]:
    """Pointers behind which each element is read only for the one that would take its place."""
    found = []
    for name, addresses in tile.places.items():
        held = tile.pointers[name].storage
        assert held is not None
        assert out.storage is not None
        same = held.numel == out.storage.numel and held.dtype.itemsize == out.dtype.itemsize
        if (
            same
            and not held.external
            and {f"out_ptr + {address}" for address in addresses} == {place}
        ):
            found.append(name)
    return tuple(found)


def scatter_kernel(subject: Subject) -> Generated:
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
