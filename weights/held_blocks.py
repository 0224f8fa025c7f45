"""Which stored blocks keep their bits: checkpoints that are quantized already.

A block format of a checkpoint (GGUF's `q4_1`) is kept where one of our number formats holds exactly
its values and nothing between the tensor and its use computes with them.
"""

from __future__ import annotations

from ..ir.recipe import CheckpointTensor, Computed, Recipe
from ..ir.types import DType
from .formats.registry import formats_that_hold
from .recipes import Quantize, leaves
from .rows import moves_rows


def held_formats(recipe: Recipe) -> tuple[DType, ...]:
    """The formats, best first, in which all of `recipe` keeps the bits of stored blocks."""
    if isinstance(recipe, CheckpointTensor):
        return formats_that_hold(recipe.stored)
    if not moves_rows(recipe):
        return ()
    held = [held_formats(a) for a in recipe.args if not isinstance(a, Computed)]
    return tuple(f for f in held[0] if all(f in other for other in held[1:]))


def requantized_tensors(recipe: Recipe, dtype: DType) -> tuple[CheckpointTensor, ...]:
    """Stored block tensors that lose their bits when `recipe` is quantized to `dtype`."""
    if isinstance(recipe, CheckpointTensor):
        lost = recipe.is_blocked and dtype not in formats_that_hold(recipe.stored)
        return (recipe,) if lost else ()
    if moves_rows(recipe) or (isinstance(recipe, Quantize) and recipe.format is dtype):
        found = [t for a in recipe.args for t in requantized_tensors(a, dtype)]
    else:
        found = [t for t in leaves(recipe) if isinstance(t, CheckpointTensor) and t.is_blocked]
    return tuple(dict.fromkeys(found))
