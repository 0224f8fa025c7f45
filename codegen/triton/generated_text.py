"""A generated kernel: its printed text, and what it is launched with.

In: a tile with its lines, where results go, what the template asks for. Out: `Generated`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.graph import Node, Value
from ...ir.types import Dim, Sym
from ..views import View
from .render import render
from .tiles import Axis, Tile, frame_of


@dataclass(frozen=True)
class Generated:
    """A kernel's text and its launch.

    `pointers`: the storage behind each pointer, in the order of the parameters; `size`: the symbol
    whose value follows them, if there is one. `grid`: up to three times (count, share), for
    `ceil(count / share)` programs.
    `in_place`: pointers that are read only where the result takes the element's place.
    """

    name: str
    source: str
    pointers: Mapping[str, View]
    written: frozenset[str]
    size: Sym | None
    constants: Mapping[str, int]
    grid: tuple[tuple[Dim, int], ...]
    in_place: tuple[str, ...] = ()


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


def place_of(tile: Tile, out: View, name: str, axes: Sequence[Axis]) -> dict[str, object]:
    """Address and mask of what is stored."""
    address = tile.address(out, frame_of(tile.shape))
    missing = [a.name for a in axes if a.name not in address.axes]
    text = address.text + "".join(f" + {name} * 0" for name in missing)
    return {
        "place": f"{tile.pointer(out, name)} + {text}",
        "mask": tile.mask(a.name for a in axes),
    }


def widening(wide: bool) -> str:
    return ".to(tl.int64)" if wide else ""


def finish(
    tile: Tile,
    name: str,
    template: str,
    constants: Mapping[str, int],
    facts: Mapping[str, object],
    grid: Sequence[tuple[Dim, int]],
) -> Generated:
    """Print the kernel: pointers read, then written, the size, constants."""
    size = next((Sym(d.name) for d in tile.shape if isinstance(d, Sym)), None)
    written = [p for p in tile.pointers if not p.startswith("x")]
    pointers = [p for p in tile.pointers if p.startswith("x")] + written
    parameters = [*pointers, *(["size"] if size else [])]
    parameters += [f"{c}: tl.constexpr" for c in (*constants, "OVERLAPS", "PORTABLE")]
    facts = {**facts, "count": count_text(grid[0][0]), "widen": widening(tile.wide)}
    return Generated(
        name,
        render(template, name, parameters, facts),
        {p: replace(tile.pointers[p], offset=0) for p in pointers},
        frozenset(written),
        size,
        constants,
        tuple(grid),
    )


def count_text(count: Dim) -> str:
    """A number of elements in the kernel's words."""
    if isinstance(count, int):
        return str(count)
    return "size" if count.scale == 1 else f"size * {count.scale}"


def with_unit(view: View, at: int) -> View:
    """`view` with a dimension of size 1 before `at`."""
    shape, strides = [*view.shape], [*view.strides]
    shape.insert(at, 1)
    strides.insert(at, 0)
    return replace(view, shape=tuple(shape), strides=tuple(strides))
