"""Computed constants: buffers that no checkpoint holds (`inv_freq`, embedding scales).

The model is on the meta device. Here its own initialisation evaluates these buffers
on the CPU, and rotary tables that depend on the longest position at run time
(longrope, dynamic) are fixed for one context length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def compute_buffers(model: Any, max_context: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Values of all non-persistent buffers of `model`, by name, unrounded, on the CPU.

    Also freezes run-time dependent rotary tables for `max_context` tokens, in the
    module and in the result; the notes say which. Buffers that the model's initialisation leaves
    unset are not among them.
    """
    notes: list[str] = []
    result: dict[str, torch.Tensor] = {}
    owners: dict[str, Any] = {}
    for path, module in model.named_modules():
        # Each module is initialised by the innermost model that it belongs to, itself included.
        parent = owners.get(path.rpartition(".")[0], model)
        owners[path] = module if isinstance(module, PreTrainedModel) else parent
        names = [n for n in module._buffers if n in module._non_persistent_buffers_set]
        if not any(module._buffers[n] is not None for n in names):
            continue
        values = _initialised(_initialisers(model, owners, path), module, names)
        notes += _freeze_rotary(path, module, max_context, values)
        for name, value in values.items():
            if _is_unset(value):
                continue  # nothing set it; whoever reads it will say so
            result[f"{path}.{name}" if path else name] = value
    return result, notes


def _initialisers(model: Any, owners: dict[str, Any], path: str) -> Iterator[Callable[[], None]]:
    """What may set the buffers of the module at `path`: its own initialisation, then those of the
    modules around it, of which some set what their parts hold."""
    while True:
        module = model.get_submodule(path)
        yield partial(owners[path]._init_weights, module)
        if not path:
            return
        path = path.rpartition(".")[0]


def _initialised(
    initialisers: Iterable[Callable[[], None]], module: Any, names: list[str]
) -> dict[str, torch.Tensor]:
    """Run initialisations on CPU copies of the buffers, until they are set; then put the meta ones
    back."""
    saved = {n: module._buffers[n] for n in names if module._buffers[n] is not None}
    for name, buffer in saved.items():
        fill = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
        module._buffers[name] = fill.fill_(float("nan")) if fill.is_floating_point() else fill
    with torch.no_grad():
        for initialise in initialisers:
            initialise()
            if not any(_is_unset(module._buffers[name]) for name in saved):
                break
    values = {n: module._buffers[n].clone() for n in saved}
    module._buffers.update(saved)
    return values


def _is_unset(value: torch.Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isnan(value).all()) and value.numel() > 0


def _freeze_rotary(
    path: str, module: Any, max_context: int, values: dict[str, torch.Tensor]
) -> list[str]:
    """Set run-time dependent frequencies in `values` to those for `max_context`; returns notes."""
    rope_type = getattr(module, "rope_type", None)
    if rope_type is None:
        return []
    per_layer = isinstance(rope_type, dict)
    kinds: dict[str | None, str] = rope_type if per_layer else {None: rope_type}
    notes = []
    for layer_type, kind in kinds.items():
        if "dynamic" not in kind and kind != "longrope":
            continue
        prefix = "" if layer_type is None else f"{layer_type}_"
        kwargs = {} if layer_type is None else {"layer_type": layer_type}
        inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](
            module.config, torch.device("cpu"), seq_len=max_context, **kwargs
        )
        values[f"{prefix}inv_freq"] = inv_freq
        setattr(module, f"{prefix}attention_scaling", scaling)
        if _depends_on_length(kind, module.config, kwargs):
            told = f"{kind} rotary table fixed for a context of {max_context} tokens"
            notes.append(f"{path}: {told}")
    frozen = {k: "frozen" if "dynamic" in v or v == "longrope" else v for k, v in kinds.items()}
    module.rope_type = frozen if per_layer else frozen[None]
    return notes


def _depends_on_length(kind: str, config: Any, kwargs: dict[str, str]) -> bool:
    """Whether the frequencies for one token differ from those for any number of tokens."""
    tables = [
        ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length, **kwargs)[0]
        for length in (1, 1 << 24)
    ]
    return not torch.equal(*tables)
