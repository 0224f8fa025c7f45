"""How a checkpoint says that it is quantized, and what is done about each method.

In: a directory, its config and its tensors. Out: the tensors as a model has them, each quantized
weight one of them, and a reader for them. A method whose layout isn't read is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....base.errors import LlmcError
from ....weights.recipes import CheckpointTensor
from ....weights.values import TensorReader
from ..safetensors_file import SafetensorsReader
from . import awq, bitsandbytes, compressed_tensors, fp8, gptq, mlx, modelopt, mxfp4
from .grouped import GroupedIntegers, in_order
from .parts import Parts
from .reader import QuantizedReader
from .settings import Settings
from .weight import Taken

METHODS: dict[str, Callable[[Settings, Parts], Taken]] = {
    "awq": awq.take,
    "bitsandbytes": bitsandbytes.take,
    "compressed-tensors": compressed_tensors.take,
    "fbgemm-fp8": fp8.take,
    "fp8": fp8.take,
    "gptq": gptq.take,
    "metal": mlx.take,
    "mlx": mlx.take,
    "modelopt": modelopt.take,
    "modelopt-fp4": modelopt.take,
    "mxfp4": mxfp4.take,
}
"""By the names that `quant_method` has for them, with hyphens."""

REFUSED = {
    "aqlm": "additive codebooks",
    "auto-round": "AutoRound's own packing",
    "bitnet": "ternary weights",
    "eetq": "an order of bytes for CUDA kernels",
    "fouroversix": "NVFP4 with scales chosen by block",
    "fp-quant": "rotated weights in 4-bit floats",
    "gemma": "Gemma's own packing",
    "gguf": "GGUF inside of safetensors",
    "higgs": "vector codebooks of rotated weights",
    "hqq": "half-quadratic quantization with float zero points",
    "mxfp8": "8-bit floats in blocks of 32",
    "nvfp4": "transformers' own NVFP4",
    "quark": "AMD Quark",
    "quanto": "tensors of optimum-quanto",
    "quip": "rotated weights with lattice codebooks",
    "sinq": "scales of rows and columns",
    "spqr": "sparse outliers beside small groups",
    "torchao": "torchao's tensor subclasses",
    "vptq": "vector codebooks",
}
"""Methods whose layout isn't read, and what they are."""

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""Fields of a config.json that describe quantization; the model itself doesn't read them."""


@dataclass(frozen=True)
class Quantized:
    """A quantized checkpoint as if it weren't: `tensors` and their `reader`, lines for the user.

    `transposed`: weights whose last two dimensions the model has the other way round; `order`: for
    weights whose columns are stored in another order, where each of the model's columns is.
    """

    tensors: Mapping[str, CheckpointTensor]
    reader: TensorReader
    transposed: frozenset[str]
    order: Mapping[str, np.ndarray]
    notes: tuple[str, ...]


def open_quantized(
    settings: Settings, tensors: Mapping[str, CheckpointTensor], reader: SafetensorsReader
) -> Quantized:
    """What the method that `settings` describes makes of `tensors`.

    Raises:
        LlmcError: E0419 for a method or a variety of one that isn't read; E0406, E0407, E0410,
            E0418 for parts or settings that don't fit.
    """
    take = METHODS.get(settings.method)
    if take is None:
        known = REFUSED.get(settings.method)
        what = f"{known}: " if known else ""
        raise settings.unknown(f"{what}that layout isn't read")
    taken = take(settings, Parts(tensors, reader))
    others = {n: t for n, t in tensors.items() if n not in taken.parts | taken.dropped}
    twice = sorted(others.keys() & taken.weights.keys())
    if twice:
        raise LlmcError("LLMC-E0410", f"{twice[0]} is there quantized and as it is")
    order = _put_in_order(taken)
    weights = {n: CheckpointTensor(n, w.stored, w.shape) for n, w in taken.weights.items()}
    note = f"the checkpoint is quantized with {settings.method}: {len(weights)} weights"
    return Quantized(
        {**others, **weights},
        QuantizedReader(reader, taken.weights),
        frozenset(taken.transposed),
        order,
        (note, *taken.notes),
    )


def _put_in_order(taken: Taken) -> dict[str, np.ndarray]:
    """Put columns of one group beside one another; where each column then is, by weight."""
    order = {}
    for name, weight in taken.weights.items():
        if isinstance(weight, GroupedIntegers) and weight.groups is not None:
            found = in_order(weight)
            if found is not None:
                taken.weights[name], order[name] = found
    return order


def unquantized_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config less what it says of quantization, also in its parts."""
    return {
        name: unquantized_fields(value) if isinstance(value, Mapping) else value
        for name, value in raw.items()
        if name not in CONFIG_KEYS
    }
