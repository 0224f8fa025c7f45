"""Eager on the weights that a quantized artifact holds, and what rounding inputs costs.

In: the graph text of an artifact, and the checkpoint folder that it was made of. Out: the folder,
with every weight that the graph quantizes replaced by what its format makes of it. What is left
between eager on that and the artifact is the rounding of layers' inputs, keys and values to int8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_QUANTIZED = re.compile(r"^const .* = quantize\((?P<recipe>.*), (?P<format>\w+)\)$", re.MULTILINE)
_LEAF = re.compile(r"(?P<turned>permute\()?@(?P<name>[^\s,]+?):(?:f32|f16|bf16)\b")
_BLOCK = 32
"""Inputs are rounded in blocks of this many, each with a scale of its own."""


def round_weights(folder: Path, graph: str) -> None:
    """Rewrite the checkpoint in `folder` with the values that `graph` quantizes it to."""
    from llmc.ir.types import DType
    from llmc.weights.formats.registry import dequantize, quantize
    from safetensors.torch import load_file, save_file

    files = {path: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    rounded = {
        leaf["name"]: (DType(found["format"]), bool(leaf["turned"]))
        for found in _QUANTIZED.finditer(graph)
        for leaf in _LEAF.finditer(found["recipe"])
    }
    assert rounded, "the graph quantizes nothing"
    for path, tensors in files.items():
        for name in tensors.keys() & rounded.keys():
            dtype, turned = rounded[name]
            values = tensors[name].float().numpy()
            matrix = values.swapaxes(-1, -2) if turned else values
            rows = np.ascontiguousarray(matrix).reshape(-1, matrix.shape[-1])
            kept = dequantize(quantize(rows, dtype)).reshape(matrix.shape)
            kept = kept.swapaxes(-1, -2) if turned else kept
            tensors[name] = tensors[name].new_tensor(np.ascontiguousarray(kept))
        save_file(tensors, path, metadata={"format": "pt"})


@contextmanager
def rounded_inputs(model: Any) -> Iterator[None]:
    """The model with the inputs of linear layers and of experts rounded to int8 in blocks of 32."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D) or name.endswith(".experts")
    ]
    handles = [m.register_forward_pre_hook(_rounded, with_kwargs=False) for m in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounded(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not arguments or not arguments[0].is_floating_point():
        return arguments
    import torch

    x, *rest = arguments
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % _BLOCK))
    blocks = padded.reshape(*x.shape[:-1], -1, _BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    kept = (torch.round(blocks / scale) * scale).reshape(padded.shape)[..., : x.shape[-1]]
    return (kept, *rest)


def mean_noise(model: Any, texts: list[Any]) -> float:
    """What rounding inputs moves eager's own logits by: mean of the largest share in each row."""
    from llmc.models.eager import eager_logits

    shares = []
    with rounded_inputs(model):
        for text in texts:
            moved = eager_logits(model, text.token_ids.tolist())
            spread = np.ptp(text.logits, axis=-1)
            shares.append(np.abs(moved - text.logits).max(-1) / spread)
    return float(np.concatenate(shares).mean())
