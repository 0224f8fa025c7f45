"""Which stored blocks keep their bits: checkpoints that are quantized already.

A block format of a checkpoint (GGUF's `q4_1`) is kept where one of our number formats holds exactly
its values and nothing between the tensor and its use computes with them.
"""

from __future__ import annotations

from ..ir.recipe import CheckpointTensor, Computed, Recipe
from ..ir.types import DType
from .formats.registry import format_of, formats_that_hold
from .recipes import Quantize, leaves
from .rows import moves_rows

_NARROW = {"mxfp4": 4}
"""Bits of block formats that only formats of more bits hold."""


def held_formats(recipe: Recipe, bits: int = 8) -> tuple[DType, ...]:
    """The formats, best first, in which all of `recipe` keeps the bits of stored blocks.

    Blocks of fewer bits than each of these has are only kept in formats of at most `bits`.
    """
    if isinstance(recipe, CheckpointTensor):
        grows = _NARROW.get(recipe.stored, 8) <= bits < 8
        held = formats_that_hold(recipe.stored)
        return tuple(f for f in held if not grows or format_of(f).bits <= bits)
    if not moves_rows(recipe):
        return ()
    held = [held_formats(a, bits) for a in recipe.args if not isinstance(a, Computed)]
    return tuple(f for f in held[0] if all(f in other for other in held[1:]))


def is_blocked(recipe: Recipe) -> bool:
    """Whether the checkpoint holds (parts of) `recipe` quantized."""
    return any(isinstance(leaf, CheckpointTensor) and leaf.is_blocked for leaf in leaves(recipe))


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
