"""What of each model type is tried: small models of its own class, with its features kept.

In: a model type of the installed transformers. Out: narrow configs (`models/twin.py`) of the text
model, each under a name. `default` is what the config class says by itself, with what it leaves
open (`OPEN`); the others are published configs of the type (`configs/`), and features that models
of the type have and the class has off (`FEATURES`).
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = "default"

Fields = dict[str, Any]

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [24, 20, 20]}
_LOCAL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
OPEN: dict[str, Fields] = {
    "blt": {
        "encoder_hash_byte_group_vocab": 64, "local_attention_window_len": 8,
        "patcher_config": {**_LOCAL, "num_hidden_layers": 1, "sliding_window": 8},
        "encoder_config": {**_LOCAL, "num_hidden_layers": 1},
        "decoder_config": {**_LOCAL, "num_hidden_layers": 2},
        "global_config": {**_LOCAL, "num_hidden_layers": 2, "hidden_size": 128},
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 20,
        "rope_parameters": {"sliding_attention": _MROPE, "full_attention": None},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 500000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_v2": {
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "topk_method": "group_limited_greedy",
        "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0,
    },
    "dots1": {
        "n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    },
}  # fmt: skip
"""What config classes leave open and their models can't be built or run without: as published
models have it, or tiny where sizes stand in parts of a kind that no other class has."""

FEATURES: dict[str, dict[str, Fields]] = {
    "falcon": {"alibi": {"alibi": True}, "new": {"new_decoder_architecture": True}},
    "gpt_bigcode": {"many heads": {"multi_query": False}},
    "gpt_neox": {"serial": {"use_parallel_residual": False}},
    "qwen2": {"window": {"use_sliding_window": True, "max_window_layers": 2}},
    "qwen3": {"window": {"use_sliding_window": True, "max_window_layers": 2}},
    "stablelm": {"parallel": {"use_parallel_residual": True, "qk_layernorm": True}},
}
"""What published models of a type have on and none of `configs/` shows."""


class NoSubjectError(Exception):
    """No small model of this type can be made; the message says why."""


class OtherKindError(Exception):
    """Models of this type don't take text and give text; the message says what else they do."""


def model_types() -> list[str]:
    """The types for which the installed transformers has a causal language model, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def subjects(model_type: str) -> list[str]:
    """What is tried of a type: its default, features, and the published config that says most."""
    known = _published().get(model_type, [])
    return [DEFAULT, *FEATURES.get(model_type, ()), *known[:1]]


@cache
def _published() -> dict[str, list[str]]:
    """Names of published configs by model type, the ones with the most fields first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for path in sorted(CONFIGS.glob("*.json")):
        raw = json.loads(path.read_text())
        said = len(raw) + len(raw.get("text_config") or ())
        found.setdefault(raw["model_type"], []).append((-said, path.stem))
    return {kind: [name for _, name in sorted(names)] for kind, names in found.items()}


def small_config(model_type: str, subject: str) -> Any:
    """The narrow text config of a subject.

    Raises:
        NoSubjectError: none can be built.
        OtherKindError: it has several text parts, an encoder and a decoder of something else.
        LlmcError: the config is refused before any model is built.
    """
    from llmc.models.auto import text_config
    from llmc.models.twin import twin

    added = {DEFAULT: {}, **FEATURES.get(model_type, {})}
    is_made = subject in added
    config = text_config(_made(model_type, added[subject]) if is_made else _read(subject))
    try:
        config.get_text_config()
    except ValueError as error:
        raise OtherKindError(str(error).partition(". ")[0]) from error
    found = twin(config)
    if found is None:
        raise NoSubjectError(_why_not(config))
    return found.config


def _made(model_type: str, added: Fields) -> Any:
    """The class's own config with what it leaves open, and what is added."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type](**OPEN.get(model_type, {}), **added)
    except Exception as error:  # some classes ask for parts
        raise NoSubjectError(f"its config class builds nothing by itself: {error}") from error
    if getattr(config, "is_decoder", None) is False:
        config.is_decoder = True  # as who builds a causal language model of an encoder has to
    return config


def _read(name: str) -> Any:
    """A published config, as a compile reads it, without its quantization."""
    from llmc.compiler.frontend.checkpoint import load_config

    raw = json.loads((CONFIGS / f"{name}.json").read_text())
    raw.pop("quantization_config", None)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        return load_config(Path(folder), raw, trust_remote_code=False)


def _why_not(config: Any) -> str:
    """What transformers says when the config's model is built as it is."""
    import torch
    from llmc.models.auto import auto_class
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            (auto_class(config) or AutoModelForCausalLM).from_config(config)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "its sizes can't be made small"
