"""Loop nests of the generic path: C++ text over strided views.

The outer loop runs over the rows that this thread owns (the symbolic dimension, stored
outermost); values without a symbol are made by thread 0. Bounds and strides are
constants; dimensions that are contiguous in every view are joined into one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.types import Dim, Sym
from ..views import View, storage_order

Body = Callable[["Nest"], list[str]]


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop: `size` iterations (or this thread's share of a symbol) of variable `var`."""

    var: str
    size: Dim


class Nest:
    """Loops over a shape, and the element of each view at the current place."""

    def __init__(self, shape: Sequence[Dim], views: Sequence[View], prefix: str = "i") -> None:
        self.views = list(views)
        self.loops: list[Loop] = []
        self._vars: dict[int, list[str]] = {id(v): [] for v in views}
        for number, (size, strides) in enumerate(_joined(shape, views)):
            var = "t" if isinstance(size, Sym) else f"{prefix}{number}"
            self.loops.append(Loop(var, size))
            for view, stride in zip(views, strides, strict=True):
                self._vars[id(view)] += term(var, stride)

    def terms(self, view: View) -> list[str]:
        """What the loop variables add to the index of `view`."""
        return self._vars[id(view)]

    def at(self, view: View, *extra: str) -> str:
        """The element of `view` here; `extra` terms are added to its index."""
        return element(view, [*self.terms(view), *extra])

    @property
    def is_symbolic(self) -> bool:
        return any(isinstance(loop.size, Sym) for loop in self.loops)


def element(view: View, terms: Sequence[str]) -> str:
    """C++ of the element of `view` whose index is the sum of `terms`."""
    if view.literal:
        return view.literal
    assert view.storage is not None
    parts = [*terms, *([str(view.offset)] if view.offset else [])]
    return f"{view.storage.name}[{' + '.join(parts) or '0'}]"


def loop_nest(
    shape: Sequence[Dim], views: Sequence[View], body: Body, simd: bool = False
) -> list[str]:
    """The statements of `body` for every element of `shape`, shared out among threads.

    All views have this shape. `simd` promises that iterations don't depend on one another.
    """
    nest = Nest(shape, views)
    return guard(nest, wrap(nest.loops, body(nest), simd))


def guard(nest: Nest, lines: list[str]) -> list[str]:
    """Run a nest without a symbol in thread 0 only."""
    return lines if nest.is_symbolic else ["if (team.id == 0) {", *indent(lines), "}"]


def wrap(loops: Sequence[Loop], lines: list[str], simd: bool = False) -> list[str]:
    """`lines` inside `loops`, first one outermost."""
    innermost = True
    for loop in reversed(loops):
        head = [_header(loop)]
        if simd and innermost and isinstance(loop.size, int):
            head.insert(0, "#pragma clang loop vectorize(assume_safety)")
        lines = [*head, *indent(lines), "}"]
        innermost = False
    return lines


def indent(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _header(loop: Loop) -> str:
    if isinstance(loop.size, int):
        return f"for (int64_t {loop.var} = 0; {loop.var} < {loop.size}; ++{loop.var}) {{"
    range_, scale = f"range_{loop.size.name}", loop.size.scale
    begin, end = f"{range_}.begin", f"{range_}.end"
    if scale != 1:
        begin, end = f"(int64_t){begin} * {scale}", f"(int64_t){end} * {scale}"
    return f"for (int64_t {loop.var} = {begin}; {loop.var} < {end}; ++{loop.var}) {{"


def term(var: str, stride: int) -> list[str]:
    """What a variable adds to an index: one term, or none where it doesn't move."""
    if stride == 0:
        return []
    return [var if stride == 1 else f"{var} * {stride}"]


def _joined(shape: Sequence[Dim], views: Sequence[View]) -> list[tuple[Dim, tuple[int, ...]]]:
    """Dimensions in storage order with their stride in each view, joined where all views agree."""
    joined: list[tuple[Dim, tuple[int, ...]]] = []
    for i in storage_order(shape):
        size, strides = shape[i], tuple(v.strides[i] for v in views)
        if size == 1:
            continue
        outer = _joinable(joined, size, strides)
        if outer is None:
            joined.append((size, strides))
        else:
            joined[-1] = (outer, strides)
    return joined


def _joinable(
    joined: list[tuple[Dim, tuple[int, ...]]], size: Dim, strides: tuple[int, ...]
) -> Dim | None:
    """Size of the last dimension of `joined` together with the next one inside it."""
    if not joined:
        return None
    outer, outer_strides = joined[-1]
    if isinstance(size, Sym) or isinstance(outer, Sym):
        return None
    fits = all(a == size * b for a, b in zip(outer_strides, strides, strict=True))
    return outer * size if fits else None
