"""Rows of recipes as rows of their arguments."""

import numpy as np
import pytest
from llmc.ir.recipe import CheckpointTensor, Recipe
from llmc.ir.tiles import PANEL
from llmc.weights.recipes import Concat, InterleavePanels, Permute, Reshape, Slice, add, transpose
from llmc.weights.rows import matrix_shape, moves_rows, row_sources

A = CheckpointTensor("a", "f32", (24, 64))
E = CheckpointTensor("e", "f32", (3, 20, 64))


def origins(recipe: Recipe, rows: list[int]) -> list[tuple[Recipe | None, int]]:
    """(argument, its row) of each row; (None, 0) for zero padding."""
    found: dict[int, tuple[Recipe | None, int]] = {}
    for source in row_sources(recipe, np.array(rows)) or []:
        for at, row in zip(source.at, source.rows, strict=True):
            found[int(at)] = (source.recipe, int(row) if source.recipe is not None else 0)
    return [found[i] for i in range(len(rows))]


def test_tensors_as_matrices() -> None:
    assert matrix_shape((3, 20, 64)) == (60, 64)
    assert matrix_shape((24,)) == (24, 1)
    assert matrix_shape(()) == (1, 1)


def test_rows_of_a_concatenation() -> None:
    b = CheckpointTensor("b", "f32", (8, 64))
    assert origins(Concat((A, b)), [25, 3, 24, 23]) == [(b, 1), (A, 3), (b, 0), (A, 23)]
    f = CheckpointTensor("f", "f32", (3, 4, 64))
    assert origins(Concat((E, f), 1), [0, 20, 24, 47]) == [(E, 0), (f, 0), (E, 20), (f, 7)]


def test_rows_of_panels() -> None:
    """Gate and up in turns; 24 rows fill one panel and half of the next, the rest is zero."""
    up = CheckpointTensor("up", "f32", (24, 64))
    recipe = InterleavePanels(A, up)
    wanted = [0, PANEL, 2 * PANEL + 7, 2 * PANEL + 8, 3 * PANEL + 7, 4 * PANEL - 1]
    assert origins(recipe, wanted) == [(A, 0), (up, 0), (A, 23), (None, 0), (up, 23), (None, 0)]


def test_rows_of_slices_and_permutations() -> None:
    assert origins(Slice(A, 0, 5, 9), [0, 3]) == [(A, 5), (A, 8)]
    assert origins(Permute(E, (1, 0, 2)), [0, 1, 3]) == [(E, 0), (E, 20), (E, 1)]


@pytest.mark.parametrize(
    "recipe", [A, transpose(A), Reshape(A, (48, 32)), Slice(A, 1, 0, 9), add(A, 1.0)], ids=str
)
def test_what_computes_or_cuts_columns_moves_no_rows(recipe: Recipe) -> None:
    assert not moves_rows(recipe)
    assert row_sources(recipe, np.arange(3)) is None
