"""Adapters merged into a model's weights, as recipes.

In: a model on the meta device, the changes of its adapters, and what its checkpoint was converted
to. Out: the recipes of W + scale·B·A and of replaced parameters, adapter after adapter. Nothing is
read: a merged weight is computed by slices of rows when the artifact is written.

An adapter names modules as the model did when it was trained: by today's names, or by those of the
checkpoint, which transformers converts. Where a tensor of the checkpoint becomes a part of a
parameter (an expert of many, stored one by one), the change is merged before the conversion, so
that whatever it does is done to their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import LlmcError
from ...weights.recipes import (
    CheckpointTensor,
    Computed,
    Elementwise,
    Norm,
    Product,
    Recipe,
    Reshape,
    Slice,
    Take,
    add,
    concat,
    mul,
    stack,
    transpose,
)
from .adapter import Adapter, Added, Change, LowRank, Replaced, ReplacedRows
from .model_source import Loaded, ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Place:
    """Where a change goes: `key` in the words of the adapter's settings, `name` in the model's.

    `transposed`: its weights are [in, out].
    """

    key: str
    name: str
    transposed: bool


def merge(model: PreTrainedModel, source: ModelSource, loaded: Loaded) -> Loaded:
    """`loaded`, to which the checkpoint of `source` was converted, with the source's adapters.

    Raises:
        LlmcError: E0406, a change has another shape than its parameter; E0425, it has no place.
    """
    places = _Places(model, loaded)
    stored, named = [], []
    for adapter in source.adapters:
        for change in adapter.changes:
            is_stored = change.parameter in source.tensors and change.parameter not in places
            (stored if is_stored else named).append((adapter, change))
    if stored:
        loaded = source.convert(model, _with_stored(source.tensors, stored))
    recipes = _with_ties(loaded.recipes, source.ties)
    before = dict(recipes)
    left_out = set(loaded.left_out)
    for adapter, change in named:
        place = places.of(adapter, change)
        if place is None:
            left_out |= change.names
            continue
        if isinstance(change, Replaced):  # also what the checkpoint itself lacks
            recipes[place.name] = change.tensor
            continue
        if place.name not in recipes:
            raise _homeless(adapter, change)
        both = isinstance(change, ReplacedRows)
        for name in _same_rows(model, place.name) if both else [place.name]:
            if name in recipes:
                recipes[name] = _changed(adapter, change, place, recipes[name], before[name])
    return replace(loaded, recipes=recipes, left_out=frozenset(left_out))


def _with_stored(
    tensors: Mapping[str, Recipe], changes: list[tuple[Adapter, Change]]
) -> dict[str, Recipe]:
    """Checkpoint `tensors` with the changes that name them."""
    merged = dict(tensors)
    for adapter, change in changes:
        name = change.parameter
        key = change.module if isinstance(change, LowRank) else name
        place = _Place(key, name, adapter.transposed)
        merged[name] = _changed(adapter, change, place, merged[name], tensors[name])
    return merged


def _with_ties(recipes: Mapping[str, Recipe], ties: Mapping[str, str]) -> dict[str, Recipe]:
    """`recipes`, where each of two parameters that shared a tensor has it as its own."""
    found = dict(recipes)
    for one, other in [*ties.items(), *((b, a) for a, b in ties.items())]:
        if other in found:
            found.setdefault(one, found[other])
    return found


def _same_rows(model: PreTrainedModel, name: str) -> list[str]:
    """`name` and what is tied to it: a trained token is one of both ends."""
    ties = (getattr(model, "all_tied_weights_keys", None) or {}).items()
    return [name, *(other for pair in ties if name in pair for other in pair if other != name)]


class _Places:
    """The model's parameters by the names that an adapter may have for them.

    These are its own, those of the whole model that it is a part of, and those of the checkpoint
    where the conversion does no more than rename.
    """

    def __init__(self, model: PreTrainedModel, loaded: Loaded) -> None:
        self._model = model
        own = {name: i for i, name in enumerate(model.state_dict())}
        stored = {r.name: n for n, r in loaded.recipes.items() if isinstance(r, CheckpointTensor)}
        self._names: dict[str, str | None] = stored | dict(loaded.renamed) | {n: n for n in own}
        self._within: dict[str, list[str]] = {}
        for name in sorted(self._names, key=lambda n: own.get(self._names[n] or "", -1)):
            module, _, parameter = name.rpartition(".")
            self._within.setdefault(module, []).append(parameter)

    def __contains__(self, parameter: str) -> bool:
        return parameter in self._names

    def of(self, adapter: Adapter, change: Change) -> _Place | None:
        """Where `change` goes; None if that is in a part of the whole model that isn't compiled.

        Raises:
            LlmcError: E0425, the model has no such parameter.
        """
        parameter = change.parameter
        key = change.module if isinstance(change, LowRank) else parameter
        if isinstance(change, LowRank) and adapter.config.parameters:
            own = self._within.get(change.module, [])
            wrapped = adapter.config.parameters_of(change.module, own)
            if change.wraps < len(wrapped):  # the last of them is wrapped outermost
                key = parameter = f"{change.module}.{wrapped[-1 - change.wraps]}"
        if parameter not in self._names:
            raise _homeless(adapter, change)
        name = self._names[parameter]
        return None if name is None else _Place(key, name, _is_transposed(self._model, name))


def _is_transposed(model: PreTrainedModel, parameter: str) -> bool:
    """Whether a parameter is [in, out], as in transformers' `Conv1D` and some experts."""
    from transformers.pytorch_utils import Conv1D

    module = model.get_submodule(parameter.rpartition(".")[0])
    return isinstance(module, Conv1D) or bool(getattr(module, "is_transposed", False))


def _homeless(adapter: Adapter, change: Change) -> LlmcError:
    base = f" (it was made for {adapter.config.base})" if adapter.config.base else ""
    return LlmcError(
        "LLMC-E0425",
        f"{adapter.id}: the model has no {change.parameter}, which the adapter changes{base}",
        "merge it into the model that it was made for",
    )


def _changed(
    adapter: Adapter, change: Change, place: _Place, weight: Recipe, before: Recipe
) -> Recipe:
    """`weight` after `change`; `before` is what it was without any adapter."""
    if isinstance(change, Replaced):
        return change.tensor
    if isinstance(change, LowRank):
        return _with_low_rank(adapter, change, place, weight, before)
    if isinstance(change, Added):
        return add(weight, _fitting(adapter, place, change.delta, weight))
    rows = np.arange(weight.shape[0])
    count, size = len(change.indices), weight.shape[1:]
    if change.tensor.of != (count, *size) or not 0 <= max(change.indices, default=-1) < len(rows):
        raise LlmcError("LLMC-E0406", f"{adapter.id}: the rows of {place.key} aren't its tokens'")
    rows[list(change.indices)] = len(rows) + np.arange(count)
    return Take(concat([weight, change.tensor]), 0, Computed.of("rows", rows))


def _with_low_rank(
    adapter: Adapter, change: LowRank, place: _Place, weight: Recipe, before: Recipe
) -> Recipe:
    experts = weight.shape[0] if len(weight.shape) == 3 else None
    rank, told = change.a.of[0], adapter.config.rank_of(place.key)
    if rank != told * (experts or 1):
        raise LlmcError(
            "LLMC-E0406",
            f"{adapter.id}: the LoRA of {place.key} has rank {rank}, its settings say {told}",
        )
    product = _product(change, place.transposed, experts)
    delta = _fitting(adapter, place, mul(adapter.config.scale_of(place.key), product), weight)
    merged = add(weight, delta)
    if change.magnitude is None:
        return merged
    columns = place.transposed or change.is_embedding
    outputs = weight.shape[1 if columns else 0]
    if len(weight.shape) != 2 or change.magnitude.of not in ((outputs,), (1, outputs)):
        raise LlmcError("LLMC-E0406", f"{adapter.id}: {place.key} has other rows than its norms")
    norm = Norm(add(before, delta), 0 if columns else 1)
    factor = Elementwise("div", (Reshape(change.magnitude, norm.shape), norm))
    return Elementwise("mul", (factor, merged))


def _product(change: LowRank, transposed: bool, experts: int | None) -> Recipe:
    """B·A in the orientation of the weight; for experts one product each, stacked."""
    a, b = change.a, change.b
    if experts is None:
        return _oriented(b, a, transposed or change.is_embedding)
    rank = a.shape[0] // experts
    products = []
    for expert in range(experts):
        own = Slice(a, 0, expert * rank, (expert + 1) * rank)
        columns = Take(b, 1, Computed.of("rank", np.arange(rank) * experts + expert))
        products.append(_oriented(columns, own, transposed))
    return stack(products)


def _oriented(b: Recipe, a: Recipe, transposed: bool) -> Recipe:
    return Product(transpose(a), transpose(b)) if transposed else Product(b, a)


def _fitting(adapter: Adapter, place: _Place, delta: Recipe, weight: Recipe) -> Recipe:
    if delta.shape != weight.shape:
        raise LlmcError(
            "LLMC-E0406",
            f"{adapter.id} changes {place.key} by {list(delta.shape)}, "
            f"it is {list(weight.shape)} in the model",
            "merge it into the model that it was made for",
        )
    return delta
