"""Checkpoint names → parameter names, as recipes.

In: a model built on the meta device and a `ModelSource`. Out: for every parameter and persistent
buffer of the model the recipe of its value. Renaming and conversion are those of transformers
(`conversion_mapping`), run once on recorded tensors; this file is the one place that touches those
helpers, since they move between versions. Every checkpoint tensor reaches exactly one parameter,
or is on the model's own list of ignorable ones, or the compile stops.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...base.errors import LlmcError
from ...models.auto import is_known_class
from ...weights.recipes import CheckpointTensor, Computed, Recipe, Take, leaves, transpose
from ...weights.rows import matrix_shape
from ...weights.values import RecipeValues
from .adapter_recipes import merge
from .model_source import Convert, Loaded, ModelSource
from .recording import RecordedTensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_COMPARED_ROWS = 4096


@dataclass(frozen=True)
class Binding:
    """`recipes` by state-dict name (tied names share a recipe); `ignored` checkpoint tensors.

    `left_out` are tensors of parts of the checkpoint's model that are not compiled.
    """

    recipes: dict[str, Recipe]
    ignored: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


def bind(model: PreTrainedModel, source: ModelSource) -> Binding:
    """Recipes for the parameters and persistent buffers of `model`.

    Raises:
        LlmcError: E0406 a tensor is missing or has the wrong shape, E0407 the wrong dtype,
            E0410 a checkpoint tensor reaches nothing, E0401 a conversion no recipe expresses,
            E0425 an adapter is another model's.
    """
    loaded = source.convert(model, source.tensors)
    if loaded.unexpected and not loaded.renamed:
        _check_same_model(model, source.config)
    ignored = _check_unexpected(model, loaded.unexpected)
    _check_used(loaded.recipes, source.tensors, {*ignored, *loaded.left_out})
    loaded = merge(model, source, loaded) if source.adapters else loaded
    recipes = dict(loaded.recipes)
    _tie(model, recipes, source)
    _check_complete(model, recipes)
    return Binding(recipes, ignored, loaded.left_out)


def convert_checkpoint(model: PreTrainedModel, tensors: Mapping[str, Recipe]) -> Loaded:
    """The conversion of a Hugging Face checkpoint, as `from_pretrained` would do it."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError as error:
        raise incompatible(error) from error
    mapping = get_model_conversion_mapping(model)
    return convert_with(model, tensors, mapping, model.base_model_prefix)


def convert_reordered(
    convert: Convert,
    transposed: Collection[str],
    order: Mapping[str, np.ndarray],
    model: PreTrainedModel,
    tensors: Mapping[str, Recipe],
) -> Loaded:
    """`convert` with tensors that are stored with their last two dimensions the other way round, or
    with columns in another `order`: where each column of the model is.
    """
    turned = {n: transpose(t) if n in transposed else t for n, t in tensors.items()}
    taken = {
        n: Take(turned[n], 1, Computed.of(f"{n} columns", at))
        for n, at in order.items()
        if n in turned
    }
    return convert(model, turned | taken)


def convert_with(
    model: PreTrainedModel,
    tensors: Mapping[str, Recipe],
    mapping: list[Any],
    prefix: str | None,
) -> Loaded:
    """Apply transformers' weight transforms `mapping` to `tensors`.

    `prefix` is the base model's, which a checkpoint may have or lack; None never changes it.
    """
    try:
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError as error:
        raise incompatible(error) from error
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: c for c in converters for p in c.source_patterns}
    wanted = model.state_dict()
    recipes: dict[str, Recipe] = {}
    pending: dict[str, tuple[Any, list[str]]] = {}
    unexpected: dict[str, str] = {}
    for name in sorted(tensors, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = name, None
        if target not in wanted:
            unexpected[name] = target
        elif pattern is None:
            if target in recipes:
                raise LlmcError("LLMC-E0410", f"two tensors are {target}, one of them is {name}")
            recipes[target] = tensors[name]
        else:
            if target not in pending:
                pending[target] = (deepcopy(by_pattern[pattern]), [])
            converter, names = pending[target]
            names.append(name)
            converter.add_tensor(target, name, pattern, RecordedTensor(tensors[name]))
    for target, (converter, names) in pending.items():
        recipes.update(_converted(model, target, converter, names))
    return Loaded(recipes, unexpected)


def incompatible(error: ImportError) -> LlmcError:
    """The error for a transformers whose loading helpers have moved."""
    import transformers

    return LlmcError(
        "LLMC-E0703",
        f"transformers {transformers.__version__} loads checkpoints in a way llmc doesn't know: "
        f"{error}",
        "pip install 'llmc-compiler[compile]' for a version that fits",
    )


def _converted(
    model: PreTrainedModel, target: str, converter: Any, names: list[str]
) -> dict[str, Recipe]:
    try:
        results = converter.convert(target, model=model, config=model.config)
    except LlmcError as error:
        raise LlmcError(error.id, f"{target}: {error.message}", error.hint) from error
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[:1]
        raise LlmcError(
            "LLMC-E0406",
            f"{target} can't be made of {names[0]} and {len(names) - 1} others: {first}",
        ) from error
    converted = {}
    for name, result in results.items():
        result = result[0] if isinstance(result, list) else result
        converted[name] = result.recipe
    return converted


def _tie(model: PreTrainedModel, recipes: dict[str, Recipe], source: ModelSource) -> None:
    """Give tied parameters one recipe: that of whichever the checkpoint holds."""
    groups: dict[str, list[str]] = {}
    for target, origin in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        groups.setdefault(origin, [origin]).append(target)
    for names in [*groups.values(), *_shared_parameters(model)]:
        held = [n for n in names if n in recipes]
        if not held:
            continue
        for other in held[1:]:
            if not _equal(recipes[held[0]], recipes[other], source):
                raise LlmcError(
                    "LLMC-E0406",
                    f"the config ties {held[0]} and {other}, the checkpoint holds different values",
                    'set "tie_word_embeddings": false in config.json',
                )
        for name in names:
            recipes[name] = recipes[held[0]]


def _shared_parameters(model: PreTrainedModel) -> list[list[str]]:
    """Names under which the model itself holds one parameter object several times."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _equal(one: Recipe, other: Recipe, source: ModelSource) -> bool:
    if one == other:
        return True
    if one.shape != other.shape:
        return False
    values = RecipeValues(source.reader)
    rows = matrix_shape(one.shape)[0]
    return all(
        np.array_equal(
            values.rows(one, start, start + _COMPARED_ROWS),
            values.rows(other, start, start + _COMPARED_ROWS),
        )
        for start in range(0, rows, _COMPARED_ROWS)
    )


def _check_same_model(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """A checkpoint of another class has tensors of other parts: that says more than their names."""
    named = getattr(config, "architectures", None)
    kind = type(model).__name__
    if not isinstance(named, list) or not named or not is_known_class(named[0]) or kind in named:
        return
    raise LlmcError(
        "LLMC-E0402",
        f"the checkpoint is a {named[0]}, of which no text model can be taken apart; "
        f"{kind} alone could be compiled",
        f"save the {kind} by itself (`save_pretrained`) and compile that",
    )


def _check_unexpected(model: PreTrainedModel, unexpected: Mapping[str, str]) -> tuple[str, ...]:
    patterns = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    # Buffers that old checkpoints hold and models now compute; transformers ignores these too.
    patterns |= {r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}
    ignored = []
    for name, target in sorted(unexpected.items()):
        if any(re.search(p, name) or re.search(p, target) for p in patterns):
            ignored.append(name)
            continue
        more = f" and {len(unexpected) - 1} others" if len(unexpected) > 1 else ""
        raise LlmcError("LLMC-E0410", f"checkpoint tensor {name} belongs to no parameter{more}")
    return tuple(ignored)


def _check_complete(model: PreTrainedModel, recipes: dict[str, Recipe]) -> None:
    patterns = set(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    wanted = model.state_dict()
    missing = [
        name
        for name in wanted
        if name not in recipes and not any(re.search(p, name) for p in patterns)
    ]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise LlmcError("LLMC-E0406", f"the checkpoint lacks a tensor for {missing[0]}{more}")
    for name, parameter in wanted.items():
        recipe = recipes.get(name)
        if recipe is None:
            continue
        if not parameter.numel():
            raise LlmcError("LLMC-E0406", f"{name} is {list(parameter.shape)}: it has no elements")
        origin = next((str(t) for t in leaves(recipe)), name)
        if recipe.shape != tuple(parameter.shape):
            raise LlmcError(
                "LLMC-E0406",
                f"{name} is {list(recipe.shape)} in the checkpoint ({origin}), "
                f"{list(parameter.shape)} in the model",
            )
        if recipe.dtype.is_float != torch.is_floating_point(parameter):
            raise LlmcError("LLMC-E0407", f"{name} is stored as {recipe.dtype} ({origin})")


def _check_used(
    recipes: Mapping[str, Recipe], tensors: Mapping[str, Recipe], ignored: set[str]
) -> None:
    """Every tensor is a leaf of some recipe (a tensor cut in parts is a leaf of several)."""
    used = {leaf.name for recipe in recipes.values() for leaf in leaves(recipe)
            if isinstance(leaf, CheckpointTensor)}  # fmt: skip
    lost = sorted(set(tensors) - used - ignored)
    if lost:
        raise LlmcError("LLMC-E0410", f"checkpoint tensor {lost[0]} was converted into nothing")
