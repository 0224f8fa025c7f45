"""`adapter_config.json`: how the tensors of a PEFT adapter change a model.

In: the JSON object that `peft` saved beside an adapter. Out: an `AdapterConfig`, which knows the
base model, which modules the adapter may change, and the factor of each change. Methods that
aren't LoRA, and variants of LoRA that no sum of weights expresses, are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import LlmcError

_VARIANTS = {
    "alora_invocation_tokens": "an activated LoRA works from some token on only",
    "arrow_config": "a router chooses between its adapters at run time",
    "kasa_config": "KaSA changes the base weights",
    "layer_replication": "layers of the base are repeated",
    "megatron_config": "it was made for Megatron's own layers",
    "monteclora_config": "its weights are drawn at random",
    "use_bdlora": "its matrices are block-diagonal",
    "use_qalora": "its input is pooled in groups",
}
"""Fields of LoRA variants that aren't W + scale·B·A, and what is in the way."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
"""Initialisations that take the adapter's first values out of the base's weights."""
_KNOWN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_dora",
    "use_rslora", "velora_config",
})  # fmt: skip
"""Fields that are applied, or that only matter for training."""


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter's settings; `targets` None means every module that the file has tensors for.

    Names of modules are the adapter's own, without `base_model.model.`.
    """

    base: str | None = None
    revision: str | None = None
    rank: int = 8
    alpha: float = 8
    rslora: bool = False
    dora: bool = False
    ranks: Mapping[str, Any] = field(default_factory=dict)
    alphas: Mapping[str, Any] = field(default_factory=dict)
    targets: str | Sequence[str] | None = None
    excluded: str | Sequence[str] | None = None
    layers: Sequence[int] | None = None
    layers_pattern: Sequence[str] = ()
    saved: Sequence[str] = ()
    parameters: Sequence[str] = ()
    token_indices: Any = None
    unknown: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """The rank that the settings give to `module`."""
        return int(self.ranks.get(_pattern(self.ranks, module), self.rank))

    def scale_of(self, module: str) -> float:
        """The factor before B·A: alpha over the rank, or over its root (`use_rslora`)."""
        alpha = float(self.alphas.get(_pattern(self.alphas, module), self.alpha))
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def changes(self, module: str) -> bool:
        """Whether LoRA tensors of `module` count, as peft decides it."""
        if self.excluded and _named(self.excluded, module):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved):
            return False
        if self.targets is None or self.targets == "all-linear":
            return True
        if not _named(self.targets, module):
            return False
        return isinstance(self.targets, str) or self.layers is None or self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        patterns = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in self.layers_pattern]
        found = (re.match(p, module) for p in patterns or [r".*?\.[^.]*\.(\d+)\."])
        match = next(filter(None, found), None)
        return match is not None and int(match[1]) in (self.layers or ())

    def parameters_of(self, module: str, own: Sequence[str]) -> list[str]:
        """Which of a module's `own` parameters `target_parameters` names, in their order."""
        return [name for name in own if _named(self.parameters, f"{module}.{name}")]


def read_adapter_config(raw: Mapping[str, Any], where: str) -> AdapterConfig:
    """The settings in `raw`, which came from the file `where`.

    Raises:
        LlmcError: E0418 for values of a wrong kind, E0425 for what can't be merged.
    """
    _refuse_others(raw, where)
    try:
        config = AdapterConfig(
            base=_text(raw, "base_model_name_or_path"),
            revision=_text(raw, "revision"),
            rank=_positive(raw.get("r", 8)),
            alpha=float(raw.get("lora_alpha", 8)),
            rslora=bool(raw.get("use_rslora")),
            dora=bool(raw.get("use_dora")),
            ranks={k: _positive(v) for k, v in dict(raw.get("rank_pattern") or {}).items()},
            alphas={k: float(v) for k, v in dict(raw.get("alpha_pattern") or {}).items()},
            targets=_names(raw.get("target_modules")),
            excluded=_names(raw.get("exclude_modules")),
            layers=_layers(raw.get("layers_to_transform")),
            layers_pattern=_list(raw.get("layers_pattern")),
            saved=_list(raw.get("modules_to_save")),
            parameters=_list(raw.get("target_parameters")),
            token_indices=raw.get("trainable_token_indices"),
            unknown=tuple(sorted(n for n, v in raw.items() if v and n not in _KNOWN)),
        )
        for pattern in _patterns(config):
            re.compile(pattern)
    except (TypeError, ValueError, re.error) as error:
        raise LlmcError("LLMC-E0418", f"{where}: {' '.join(str(error).split())}") from error
    return config


def _refuse_others(raw: Mapping[str, Any], where: str) -> None:
    kind = raw.get("peft_type")
    if kind is None:
        raise LlmcError("LLMC-E0418", f"{where} has no peft_type")
    if kind != "LORA":
        raise LlmcError("LLMC-E0425", f"{where} is of method {kind!r:.60}; llmc merges LoRA")
    for name, why in _VARIANTS.items():
        if raw.get(name):
            raise LlmcError("LLMC-E0425", f"{where} uses {name}: {why}")
    start = str(raw.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE) or raw.get("loftq_config"):
        raise LlmcError(
            "LLMC-E0425",
            f"{where} began with init_lora_weights {start!r}, which changes the base's weights",
            "save it as a plain LoRA (peft: path_initial_model_for_weight_conversion)",
        )


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The first of peft's patterns that fits the end of a module's name."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)


def _named(names: str | Sequence[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _patterns(config: AdapterConfig) -> list[str]:
    whole = [p for p in (config.targets, config.excluded) if isinstance(p, str)]
    return [*whole, *config.ranks, *config.alphas, *config.layers_pattern, *config.saved]


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is {value!r:.60}")
    return value or None


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a rank is {value!r:.60}")
    return value


def _layers(value: Any) -> list[int] | None:
    numbers = [value] if isinstance(value, int) else value
    if numbers and not all(type(n) is int for n in numbers):
        raise ValueError(f"layers_to_transform is {value!r:.60}")
    return list(numbers) if numbers else None


def _names(value: Any) -> str | list[str] | None:
    return value if isinstance(value, str) or value is None else _list(value)


def _list(value: Any) -> list[str]:
    names: list[Any] = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{value!r:.60} is no list of names")
    return names
