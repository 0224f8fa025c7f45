"""Where each element of a token's row comes from, through ops that only move elements.

In: values. Out: for each an array of numbers, in the value's shape with one token, and the values
that these numbers lead to. Everything but attention is pointwise along T (`prove_packing`), so what
holds for one token holds for all. Passes that look for a structure compare these arrays instead of
the many orders in which models split, transpose and join heads; `taken` goes the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..ir.graph import Graph, Node, Value
from ..ir.ops import Concat, Expand, Permute, Reshape, Slice
from ..ir.types import Sym, T, bind_dim, numel

_ONE_TOKEN = {"T": 1}
_PLACES = 1 << 40

Array = np.ndarray


class Origins:
    """Numbers elements of the values that others are made of; equal ones are the same element."""

    def __init__(self) -> None:
        self._sources: list[Value] = []
        self._known: dict[Value, torch.Tensor] = {}

    def of(self, value: Value) -> Array:
        """i64 in the shape of `value` with T = 1."""
        return self._of(value).numpy()

    def source(self, numbers: Array) -> Value | None:
        """The one value that elements belong to: a result of an op that computes, or an input."""
        found = np.unique(numbers // _PLACES)
        return self._sources[found[0]] if len(found) == 1 else None

    def places(self, numbers: Array) -> Array:
        """Row-major indices of elements in their source with T = 1."""
        return numbers % _PLACES

    def _of(self, value: Value) -> torch.Tensor:
        if value not in self._known:
            self._known[value] = self._moved(value)
        return self._known[value]

    def _moved(self, value: Value) -> torch.Tensor:
        node = value.producer
        if node is not None and isinstance(node.op, Concat | Expand | Permute | Reshape | Slice):
            operands = [self._of(v) for v in node.inputs]
            moved = node.op.bind(_ONE_TOKEN).reference(*operands)
            assert isinstance(moved, torch.Tensor)
            return moved
        shape = [bind_dim(dim, _ONE_TOKEN) for dim in value.type.shape]
        first = len(self._sources) * _PLACES
        self._sources.append(value)
        count = int(np.prod(shape, dtype=np.int64))
        return torch.arange(first, first + count).reshape(shape)


@dataclass(frozen=True)
class _Run:
    """Elements start, start + step, … of every head of a source whose heads are `stride` apart."""

    source: Value
    stride: int
    start: int
    step: int
    count: int


def taken(graph: Graph, node: Node, origins: Origins, numbers: Array) -> Value | None:
    """The elements `numbers` [H, n] of every token as a value [T, H, n], added before `node`.

    None where they are no slices of heads. Nothing is added then.
    """
    runs = _runs(origins, numbers)
    if runs is None or not all(_is_heads(run, len(numbers)) for run in runs):
        return None
    parts = [_sliced(graph, node, run, len(numbers)) for run in runs]
    return parts[0] if len(parts) == 1 else graph.insert_before(node, Concat(-1), parts).output


def _runs(origins: Origins, numbers: Array) -> list[_Run] | None:
    """The columns as few runs as possible, in order."""
    heads = len(numbers)
    distances = np.diff(numbers, axis=0)
    if (distances != distances[:1, :1]).any():
        return None
    stride = int(distances[0, 0]) if heads > 1 else None
    return [_run(origins, part, stride) for part in _split(numbers[0])]


def _split(row: Array) -> list[Array]:
    """A head's elements in pieces of one source and one step each, as long as they can be."""
    sources, pieces = row // _PLACES, []
    at = 0
    while at < len(row):
        end = at + 1
        while (
            end < len(row)
            and sources[end] == sources[at]
            and (end == at + 1 or row[end] - row[end - 1] == row[at + 1] - row[at])
        ):
            end += 1
        pieces.append(row[at:end])
        at = end
    return pieces


def _run(origins: Origins, row: Array, stride: int | None) -> _Run:
    source = origins.source(row)
    assert source is not None
    size = numel(source.type.shape)
    width = size.scale if isinstance(size, Sym) else size
    step = int(row[1] - row[0]) if len(row) > 1 else 1
    return _Run(source, stride or width, int(origins.places(row[0])), step, len(row))


def _is_heads(run: _Run, heads: int) -> bool:
    """Whether the source is `heads` pieces of `stride` elements a token, and the run inside one."""
    last = run.start + run.step * (run.count - 1)
    inside = run.step > 0 and last < run.stride
    return inside and numel(run.source.type.shape) == Sym("T", heads * run.stride)


def _sliced(graph: Graph, node: Node, run: _Run, heads: int) -> Value:
    shape, x = run.source.type.shape, run.source
    at = next(i for i, dim in enumerate(shape) if isinstance(dim, Sym))
    if any(dim != 1 for dim in shape[:at]):
        order = (at, *(i for i in range(len(shape)) if i != at))
        x = graph.insert_before(node, Permute(tuple(i - len(shape) for i in order)), [x]).output
    if x.type.shape != (T, heads, run.stride):
        x = graph.insert_before(node, Reshape((T, heads, run.stride)), [x]).output
    stop = run.start + run.step * (run.count - 1) + 1
    if (run.start, stop, run.step) != (0, run.stride, 1):
        x = graph.insert_before(node, Slice(-1, run.start, stop, run.step), [x]).output
    return x
