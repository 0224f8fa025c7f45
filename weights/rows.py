"""Which rows of its arguments a recipe's rows are: recipes as matrices.

A tensor [..., K] is taken as a matrix of `prod(...)` rows; a vector [N] as N rows of one column.
Recipes that only move whole rows (concat, reshape and permute of leading dimensions, slices,
interleaved panels) are gathers, and so keep the bits of whatever their rows are stored as.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..ir.recipe import Recipe, Shape
from ..ir.tiles import PANEL
from .recipes import Concat, InterleavePanels, Permute, Reshape, Slice, Take

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows of a result that come from rows of one argument (None: zero padding)."""

    recipe: Recipe | None
    rows: Array
    at: Array


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a tensor of `shape` taken as a matrix."""
    return prod(lead_dims(shape)), shape[-1] if len(shape) > 1 else 1


def row_sources(recipe: Recipe, rows: Array) -> list[RowSource] | None:
    """Where each of `rows` comes from, if `recipe` only moves whole rows; else None."""
    if not moves_rows(recipe):
        return None
    here = np.arange(len(rows))
    if isinstance(recipe, Reshape):
        return [RowSource(recipe.arg, rows, here)]
    index = list(np.unravel_index(rows, lead_dims(recipe.shape)))
    if isinstance(recipe, Concat):
        return _concat_sources(recipe, index)
    if isinstance(recipe, InterleavePanels):
        return _panel_sources(recipe, index)
    if isinstance(recipe, Slice):
        index[recipe.dim] = index[recipe.dim] + recipe.start
    elif isinstance(recipe, Take):
        index[recipe.dim] = recipe.index.value[index[recipe.dim]]
    else:
        assert isinstance(recipe, Permute)
        lead = recipe.dims[:-1] or recipe.dims
        index = [index[lead.index(d)] for d in range(len(lead))]
    return [RowSource(recipe.args[0], _ravel(index, recipe.args[0].shape), here)]


def moves_rows(recipe: Recipe) -> bool:
    """Every row of `recipe` is a row of one of its arguments, or zero padding."""
    rank = len(recipe.shape)
    match recipe:
        case Reshape():
            return matrix_shape(recipe.shape)[1] == matrix_shape(recipe.arg.shape)[1]
        case Permute():
            return rank <= 1 or recipe.dims[-1] == rank - 1
        case Slice() | Take() | Concat():
            return rank == 1 or recipe.dim < rank - 1
        case InterleavePanels():
            return True
    return False


def _concat_sources(recipe: Concat, index: list[Array]) -> list[RowSource]:
    ends = np.cumsum([p.shape[recipe.dim] for p in recipe.parts])
    along = index[recipe.dim]
    which = np.searchsorted(ends, along, side="right")
    sources = []
    for i in np.unique(which):
        part, at = recipe.parts[i], np.flatnonzero(which == i)
        own = [d[at] for d in index]
        own[recipe.dim] = own[recipe.dim] - (ends[i] - part.shape[recipe.dim])
        sources.append(RowSource(part, _ravel(own, part.shape), at))
    return sources


def _panel_sources(recipe: InterleavePanels, index: list[Array]) -> list[RowSource]:
    dim = recipe.row_dim
    panel, lane = np.divmod(index[dim], PANEL)
    row = panel // 2 * PANEL + lane
    inside = row < recipe.gate.shape[dim]
    sources = []
    for part, chosen in (
        (recipe.gate, inside & (panel % 2 == 0)),
        (recipe.up, inside & (panel % 2 == 1)),
        (None, ~inside),
    ):
        at = np.flatnonzero(chosen)
        if not len(at):
            continue
        own = [row[at] if d == dim else index[d][at] for d in range(len(index))]
        sources.append(RowSource(part, at if part is None else _ravel(own, part.shape), at))
    return sources


def lead_dims(shape: Shape) -> Shape:
    """The dimensions that make up rows."""
    return shape[:-1] if len(shape) > 1 else shape


def _ravel(index: list[Array], shape: Shape) -> Array:
    return np.ravel_multi_index(tuple(index), lead_dims(shape))
