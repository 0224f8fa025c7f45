"""Numbers in place of weights: any that keep a model's values near 1, so that logits are finite.

In: a tensor of a weight table. Out: for each of its sections, what to fill it with. Matrices get a
spread of 1 / sqrt(K), whatever their format makes of codes and scales; norms are near 1.
"""

from __future__ import annotations

from math import sqrt

from llmc.codegen.triton import mma_panels
from llmc.codegen.triton.layout import in_panels
from llmc.weights.formats.number_format import NumberFormat
from llmc.weights.formats.registry import format_of, is_quantized
from llmc.weights.recipes import Pack
from llmc.weights.table import WeightTensor

from .suite import Filling, Kind, WeightRecipe

_FACTORS = 64
"""Factors of blocks in super-blocks are below this."""
_KINDS: dict[str, Kind] = {"f32": "f32", "bf16": "bf16", "f16": "f16"}


def weight_recipe(tensor: WeightTensor, seed: int) -> WeightRecipe:
    """What stands for a tensor's bytes. Raises ValueError for a type that nothing is known of."""
    sections = _packed(tensor) if isinstance(tensor.recipe, Pack) else _plain(tensor)
    return WeightRecipe(
        name=tensor.name,
        format=str(tensor.dtype),
        shape=tensor.shape,
        offset=tensor.offset,
        nbytes=tensor.nbytes,
        recipe=f"random:{seed}",
        sections=sections,
    )


def _plain(tensor: WeightTensor) -> list[Filling]:
    """Norms and the like are near 1; what is computed (frequencies of rotations) is below 1."""
    low, high = (0.0, 1.0) if type(tensor.recipe).__name__ == "Computed" else (0.9, 1.1)
    return [Filling(tensor.offset, tensor.nbytes, _kind(tensor), low, high)]


def _kind(tensor: WeightTensor) -> Kind:
    kind = _KINDS.get(str(tensor.dtype))
    if kind is None:
        raise ValueError(f"{tensor.name}: nothing to fill {tensor.dtype} with")
    return kind


def _packed(tensor: WeightTensor) -> list[Filling]:
    spread = 1 / sqrt(tensor.shape[-1])
    if not is_quantized(tensor.dtype):
        reach = spread * sqrt(3)  # of uniform numbers with that deviation
        return [Filling(tensor.offset, tensor.nbytes, _kind(tensor), -reach, reach)]
    format = format_of(tensor.dtype)
    names = list(mma_panels.section_types(format, tensor.shape[-1]))
    if not in_panels(tensor.dtype):
        names = ["codes", "row scales"]
    return [
        Filling(offset, nbytes, *_section(name, format, spread))
        for name, (offset, nbytes) in zip(names, tensor.sections, strict=True)
    ]


def _section(name: str, format: NumberFormat, spread: float) -> tuple[Kind, float, float]:
    """Kind, lowest and highest number of a section."""
    factor = _FACTORS / 2 if format.has_super_blocks else 1.0
    scale = spread / (2**format.bits / sqrt(12)) / factor
    match name:
        case "codes" | "high":
            return "bytes", 0, 256
        case "factors":
            return "bytes", 0, _FACTORS
        case "mins":  # codes count up from it: their middle becomes 0
            middle = scale * 2 ** (format.bits - 1)
            return "f16", -1.1 * middle, -0.9 * middle
        case "row scales":
            return "f32", 0.9 * scale, 1.1 * scale
        case _:
            return "f16", 0.9 * scale, 1.1 * scale
