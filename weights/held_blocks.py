"""Which stored blocks keep their bits: checkpoints that are quantized already.

A block format of a checkpoint (GGUF's `q4_1`) is kept where one of our number formats holds exactly
its values and nothing between the tensor and its use computes with them.
"""

from __future__ import annotations

from ..ir.recipe import CheckpointTensor, Computed, Recipe
from ..ir.types import DType
from .formats.registry import NEAREST, formats_that_hold
from .recipes import Quantize, leaves
from .rows import moves_rows

_CHANGED = "changed "


def held_formats(recipe: Recipe) -> tuple[DType, ...]:
    """The formats, best first, in which all of `recipe` keeps the bits of stored blocks."""
    if isinstance(recipe, CheckpointTensor):
        return formats_that_hold(recipe.stored)
    if not moves_rows(recipe):
        return ()
    held = [held_formats(a) for a in recipe.args if not isinstance(a, Computed)]
    return tuple(f for f in held[0] if all(f in other for other in held[1:]))


def nearest_format(recipe: Recipe) -> DType | None:
    """The format that changes stored blocks least where none holds them; None if no one is near."""
    near = {NEAREST.get(kind) for kind in stored_blocks(recipe)}
    return near.pop() if len(near) == 1 else None


def stored_blocks(recipe: Recipe) -> frozenset[str]:
    """The block formats of a checkpoint that `recipe` reads; marked where it computes with them.

    Matrices are joined only if these are equal: together they could keep the bits of neither.
    """
    if isinstance(recipe, CheckpointTensor):
        return frozenset([recipe.stored] if recipe.is_blocked else [])
    found = frozenset().union(*(stored_blocks(a) for a in recipe.args))
    if moves_rows(recipe):
        return found
    return frozenset(kind if kind.startswith(_CHANGED) else _CHANGED + kind for kind in found)


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
