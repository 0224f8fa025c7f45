"""The tensors of the text model within a multimodal checkpoint.

In: the whole config, the text model on the meta device and the checkpoint's tensors. Out: recipes
by the text model's own names. The checkpoint is converted as transformers would for the whole
model; the text model is then found in it by its class, and what lies outside is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...base.errors import LlmcError
from ...models.auto import auto_class, text_config, whole_class
from ...models.eager import eager_logits
from ...models.random_weights import randomize
from ...models.twin import twin
from ...weights.recipes import CheckpointTensor, Recipe, leaves
from .model_source import Loaded
from .names import convert_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SAMPLE = [7, 41, 5, 23, 11, 90, 64, 3, 17, 200, 150]
"""Token ids of a text for twins."""


def convert_text_part(
    config: PreTrainedConfig, model: PreTrainedModel, tensors: Mapping[str, Recipe]
) -> Loaded:
    """Recipes for the text `model` of a checkpoint whose config is `config`.

    Raises:
        LlmcError: E0402, the whole model has no such text model; E0401, E0406, E0410 as
            `convert_checkpoint`.
    """
    _require_same_head(config)
    whole = _whole_model(config)
    loaded = convert_checkpoint(whole, tensors)
    prefixes = _prefixes(whole, model)
    renamed = {name: _renamed(name, prefixes) for name in whole.state_dict()}
    recipes = {
        name: recipe
        for whole_name, recipe in loaded.recipes.items()
        if (name := renamed[whole_name]) is not None
    }
    used = tensor_names(recipes.values())
    left_out = tensor_names(loaded.recipes.values()) - used
    return Loaded(recipes, loaded.unexpected, left_out, renamed)


def _require_same_head(config: PreTrainedConfig) -> None:
    """The whole model must make the same logits of text as its text model does.

    Some scale or cap logits in the text model's own class and not in the whole model's. Twins with
    the same random weights are asked; a whole model that can't be run on text alone can't be asked.

    Raises:
        LlmcError: E0415.
    """
    small = twin(config)
    if small is None:
        raise LlmcError(
            "LLMC-E0415",
            f"no small {config.model_type} model can be made, so that its logits of text can't be "
            "compared with those of its text model",
            "save the text model by itself (`save_pretrained`) and compile that",
        )
    whole: Any = whole_class(small.config).from_config(  # type: ignore[union-attr]
        small.config, dtype=torch.float32, attn_implementation="eager"
    )
    randomize(whole.eval().requires_grad_(False), 1)
    part = text_config(copy.deepcopy(small.config))
    text: Any = auto_class(part).from_config(  # type: ignore[union-attr]
        part, dtype=torch.float32, attn_implementation="eager"
    )
    body = next((m for m in whole.modules() if type(m) is type(text.base_model)), None)
    if body is None:
        return  # said with the tensors' names
    text.eval().base_model.load_state_dict(body.state_dict())
    text.get_output_embeddings().weight.data = whole.get_output_embeddings().weight.data
    try:
        expected = eager_logits(whole, _SAMPLE)
    except Exception:  # it wants an image, or sound
        return
    if abs(eager_logits(text, _SAMPLE) - expected).max() > 1e-4 * np.ptp(expected):
        raise LlmcError(
            "LLMC-E0415",
            f"{type(whole).__name__} makes other logits of text than {type(text).__name__}, which "
            "scales or caps them by itself",
            "compile the text model by itself, if its logits are what is wanted",
        )


def _whole_model(config: PreTrainedConfig) -> PreTrainedModel:
    auto = whole_class(config)
    assert auto is not None, "a text part is only taken from a config whose model is known"
    try:
        with torch.device("meta"):
            return auto.from_config(config, dtype=torch.float32)
    except Exception as error:  # what a model's own code makes of numbers that make no sense
        raise LlmcError(
            "LLMC-E0418",
            f"no {config.model_type} model can be built from the config: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
        ) from error


def _prefixes(whole: PreTrainedModel, model: PreTrainedModel) -> dict[str, str]:
    """Path of a module in the whole model → its path in the text model: body and head."""
    body = type(model.base_model)
    paths = [path for path, module in whole.named_modules() if type(module) is body]
    if len(paths) != 1:
        raise LlmcError(
            "LLMC-E0402",
            f"{type(whole).__name__} has {len(paths)} text models of class {body.__name__}",
            "save the text model by itself (`save_pretrained`) and compile that",
        )
    found = {paths[0]: _path(model, model.base_model)}
    head, own_head = whole.get_output_embeddings(), model.get_output_embeddings()
    if head is not None and own_head is not None:
        found[_path(whole, head)] = _path(model, own_head)
    return found


def _path(model: torch.nn.Module, wanted: Any) -> str:
    return next(path for path, module in model.named_modules() if module is wanted)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    """A parameter's name in the text model; None for one that lies outside of it."""
    for old, new in prefixes.items():
        if name.startswith(f"{old}."):
            return (new + name[len(old) :]).removeprefix(".")
    return None


def tensor_names(recipes: Iterable[Recipe]) -> frozenset[str]:
    """The checkpoint tensors that `recipes` are made of."""
    return frozenset(
        leaf.name
        for recipe in recipes
        for leaf in leaves(recipe)
        if isinstance(leaf, CheckpointTensor)
    )


def describe(names: frozenset[str]) -> str:
    """What was left out, for the user: how many tensors, and of which parts."""
    parts = sorted({_part(name) for name in names})
    return f"left out, since text never reads them: {len(names)} tensors of {', '.join(parts)}"


def _part(name: str) -> str:
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "model" and len(rest) > 1 else first
