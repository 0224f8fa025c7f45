"""A narrow twin of a config: a small model of the same kind, with all its kinds of layers.

In: a `transformers` config of a causal language model. Out: a config of a model that is narrow
(`narrowing.py`) and as deep as asked: `twin` keeps the fewest first layers among which every kind
of layer stands, `narrow_config` keeps all.

Two layers are of one kind if their modules are of the same classes, with parameters of the same
shapes and equal flags. That is seen on models on the meta device, so that no rule by which a
family chooses its layers (`first_k_dense_replace`, `no_rope_layers`, a pattern) must be known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .auto import auto_class, no_advice
from .narrowing import is_by_layer, narrowed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_DEPTH_OF_A_STACK = "num_layers_per_stack"
"""Layers of a stack that is run several times, whose runs `num_hidden_layers` counts."""
_FEWEST = 2
_MOST_LAYERS = 26
_MOST_PARAMETERS = 60_000_000

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Twin:
    """A narrow config, and how many kinds of layers of its original it has no layer of."""

    config: PreTrainedConfig
    missing: int


def twin(config: PreTrainedConfig) -> Twin | None:
    """The smallest narrow config with every kind of layer of `config`; None if none can be built.

    Where no small number of layers has all kinds, as many kinds as can be had.
    """
    for heads in (True, False):
        changes = narrowed(_fields(config), heads)
        for whole in (changes, _with_tiny_parts(config, changes)):
            base = _rebuilt(config, whole)
            found = None if base is None else _shallow(base)
            if found is not None:
                return found
    return None


def narrow_config(config: PreTrainedConfig) -> Overrides | None:
    """The fields to change in `config` for a narrow model of its full depth; None if none is.

    Of a multimodal config those of its parts, by the part's name: text keeps its depth.
    """
    for heads in (True, False):
        changes = narrowed(_fields(config), heads)
        changed = _rebuilt(config, changes)
        if changed is not None and _on_meta(changed) is not None:
            return _nested(config, changes)
    return None


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of the text model's config."""
    return config.get_text_config().to_dict()


def _rebuilt(config: PreTrainedConfig, changes: Overrides) -> PreTrainedConfig | None:
    """`config` with `changes` in its text part."""
    whole, parts = config.to_dict(), _parts(config)
    nested = {
        name: whole[name] | change if name in parts else change
        for name, change in _nested(config, changes).items()
    }
    try:
        with no_advice():
            return type(config).from_dict(whole | nested)
    except Exception:  # config classes check their fields in many ways
        return None


def _nested(config: PreTrainedConfig, changes: Overrides) -> Overrides:
    """`changes` to the text part as changes to the whole; what text never runs is made tiny."""
    if config.get_text_config() is config:
        return changes
    fields, parts = config.to_dict(), _parts(config)
    own = narrowed({name: value for name, value in fields.items() if name not in parts})
    return own | {name: _tiny(fields[name]) for name in parts} | {"text_config": changes}


def _with_tiny_parts(config: PreTrainedConfig, changes: Overrides) -> Overrides:
    """`changes` to a config that is text's own, and its other parts tiny.

    Parts may belong to text (its attention, its experts), hence only where it stays too large.
    """
    if config.get_text_config() is not config:
        return changes
    fields = config.to_dict()
    return changes | {name: _tiny(fields[name]) for name in _parts(config)}


def _parts(config: PreTrainedConfig) -> list[str]:
    """Names of the configs within a multimodal one."""
    fields = config.to_dict()
    return [name for name in config.sub_configs if isinstance(fields.get(name), dict)]


def _tiny(part: Overrides) -> Overrides:
    return narrowed(part) | {n: 1 for n in (*_DEPTH, "depth") if n in part}


def _on_meta(config: PreTrainedConfig) -> torch.nn.Module | None:
    import torch
    from transformers import AutoModelForCausalLM

    auto = auto_class(config) or AutoModelForCausalLM  # which also knows remote code
    try:
        with torch.device("meta"), no_advice():
            return auto.from_config(config)
    except Exception:  # as do models
        return None


def _shallow(full: PreTrainedConfig) -> Twin | None:
    """`full` with few layers."""
    deep = _on_meta(full)
    if deep is None:
        return None
    kinds = _kinds(deep, _depth(full))
    wanted = set(kinds)
    best: Twin | None = None
    for changes in _shallower(full, kinds):
        candidate = _rebuilt(full, changes)
        model = None if candidate is None else _on_meta(candidate)
        if candidate is None or model is None or not _is_small(model):
            continue
        missing = len(wanted - set(_kinds(model, _depth(candidate))))
        if best is None or missing < best.missing:
            best = Twin(candidate, missing)
        if not missing:
            break
    return best


def _shallower(full: PreTrainedConfig, kinds: list[Any]) -> Iterator[Overrides]:
    """Changes that leave few layers, the fewest first that may show all `kinds`."""
    depth = _depth(full)
    first = {kind: i for i, kind in reversed(list(enumerate(kinds)))}
    shown = 1 + max(first.values(), default=1)
    start = min(max(_FEWEST, shown), depth)
    if start > 8:  # one kind comes late: where only lists say which, take the layers themselves
        yield _chosen(full, sorted({0, 1, *first.values()}))
    for count in range(start, min(depth, max(start, _MOST_LAYERS)) + 1):
        yield _chosen(full, range(count))


def _chosen(full: PreTrainedConfig, layers: Any) -> Overrides:
    """Changes that leave as many layers as `layers` has, and of per-layer lists their entries."""
    fields, depth, layers = _fields(full), _depth(full), list(layers)
    changes: Overrides = {n: len(layers) for n in _DEPTH if fields.get(n) == depth}
    for name, value in fields.items():
        if is_by_layer(value):
            there = {int(i): entry for i, entry in value.items()}
            changes[name] = {n: there[i] for n, i in enumerate(layers) if i in there}
        elif isinstance(value, list) and len(value) == depth:
            changes[name] = [value[i] for i in layers]
    if _DEPTH_OF_A_STACK in fields:
        changes[_DEPTH_OF_A_STACK] = min(fields[_DEPTH_OF_A_STACK], len(layers))
    shared = fields.get("num_kv_shared_layers")
    if shared:
        changes["num_kv_shared_layers"] = max(1, len(layers) * shared // depth)
    return changes


def _depth(config: PreTrainedConfig) -> int:
    depth = getattr(config.get_text_config(), "num_hidden_layers", 0)
    return depth if isinstance(depth, int) else 0


def _is_small(model: torch.nn.Module) -> bool:
    return sum(p.numel() for p in model.parameters()) < _MOST_PARAMETERS


def _kinds(model: torch.nn.Module, depth: int) -> list[Any]:
    """The kind of each of `depth` layers; empty if the model has no list of that many modules."""
    import torch

    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    return [tuple(map(_kind, layers)) for layers in zip(*stacks, strict=True)]


def _kind(layer: torch.nn.Module) -> tuple:
    """Classes, parameter shapes and flags of a layer's modules."""
    return tuple(
        (path, type(module).__name__, _shapes(module), _flags(module))
        for path, module in layer.named_modules()
    )


def _shapes(module: torch.nn.Module) -> tuple:
    return tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False))


def _flags(module: torch.nn.Module) -> tuple:
    """Attributes that say how a module computes; numbers of layers say where it stands."""
    return tuple(
        sorted(
            (name, repr(value))
            for name, value in vars(module).items()
            if not name.startswith("_")
            and isinstance(value, bool | int | float | str | None)
            and not any(part in name for part in ("layer_id", "layer_num", "idx", "index"))
        )
    )
