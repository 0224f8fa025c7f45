"""What became of weights that the checkpoint holds quantized: kept, requantized or dequantized.

In: lowered programs and the checkpoint's reader. Out: a line for each kind of block and the format
that it went into, with the error of that step, measured on rows of a few tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..ir.recipe import CheckpointTensor, Recipe
from ..ir.types import DType
from ..weights.formats.number_format import Quantized
from ..weights.formats.registry import dequantize, quantize
from ..weights.held_blocks import requantized_tensors
from ..weights.recipes import Pack, Quantize, leaves
from ..weights.rows import matrix_shape
from ..weights.values import RecipeValues, TensorReader
from .targets import Program

_EXACT = 1e-6
"""Below this an error is float32's, of products in another order."""
_TENSORS, _ROWS = 6, 64
"""How many tensors of a kind, and rows of each, an error is measured on."""


def block_notes(programs: Sequence[Program], reader: TensorReader) -> list[str]:
    """A line for each way that quantized weights of the checkpoint went, if there are any."""
    kept: dict[tuple[str, DType], dict[str, CheckpointTensor]] = {}
    lost: dict[tuple[str, DType], dict[str, CheckpointTensor]] = {}
    plain: dict[str, set[str]] = {}
    for recipe in _recipes(programs):
        content = recipe.arg if isinstance(recipe, Pack) else recipe
        if not isinstance(content, Quantize):
            for leaf in _blocked(leaves(recipe)):
                plain.setdefault(f"{leaf.stored} as {recipe.dtype}", set()).add(leaf.name)
            continue
        gone = requantized_tensors(content.arg, content.format)
        for leaf in _blocked(leaves(content)):
            group = lost if leaf in gone else kept
            group.setdefault((leaf.stored, content.format), {})[leaf.name] = leaf
    values = RecipeValues(reader)
    return [
        *(_kept_note(kind, tensors, values) for kind, tensors in kept.items()),
        *(_lost_note(kind, tensors, values) for kind, tensors in lost.items()),
        *(_note(names, "dequantized", kind) for kind, names in plain.items()),
    ]


def _recipes(programs: Sequence[Program]) -> Iterator[Recipe]:
    """Constants of all programs: those of tables, which programs share, or of the graph itself."""
    tables = {id(p.table): p.table for p in programs if p.table is not None}
    for table in tables.values():
        yield from (tensor.recipe for tensor in table.tensors)
    for program in programs:
        if program.table is None:
            yield from (value.recipe for value in program.graph.constants())


def _blocked(recipes: Iterable[Recipe]) -> list[CheckpointTensor]:
    return [r for r in recipes if isinstance(r, CheckpointTensor) and r.is_blocked]


def _kept_note(
    kind: tuple[str, DType], tensors: dict[str, CheckpointTensor], values: RecipeValues
) -> str:
    error = _error(tensors.values(), kind[1], values, values.quantized_rows)
    if error < _EXACT:
        return _note(tensors, "keep their bits", " as ".join(kind))
    rounded = f"{_note(tensors, 'keep their codes', ' as '.join(kind))}"
    return f"{rounded}: float16 scales and minima, relative error {error:.2g}"


def _lost_note(
    kind: tuple[str, DType], tensors: dict[str, CheckpointTensor], values: RecipeValues
) -> str:
    """Rounded anew, also where blocks of these would fit: they aren't beside one another there."""

    def rounded(tensor: CheckpointTensor, dtype: DType, start: int, stop: int) -> Quantized:
        return quantize(values.rows(tensor, start, stop), dtype)

    error = _error(tensors.values(), kind[1], values, rounded)
    return f"{_note(tensors, 'requantized', ' as '.join(kind))}: relative error {error:.2g}"


def _note(names: Iterable[str], what: str, kind: str) -> str:
    names = sorted(names)
    return f"{len(names)} tensors {what}, {kind} ({names[0]}{', …' if names[1:] else ''})"


def _error(
    tensors: Iterable[CheckpointTensor],
    format: DType,
    values: RecipeValues,
    rows: Callable[[CheckpointTensor, DType, int, int], Quantized],
) -> float:
    """Root mean square of the difference over that of the values, on some rows of some tensors."""
    wrong, whole = 0.0, 0.0
    for tensor in list(tensors)[:_TENSORS]:
        stop = min(_ROWS, matrix_shape(tensor.shape)[0])
        exact = values.rows(tensor, 0, stop).astype(np.float64)
        wrong += float(np.square(dequantize(rows(tensor, format, 0, stop)) - exact).sum())
        whole += float(np.square(exact).sum())
    return (wrong / whole) ** 0.5 if whole else 0.0
