"""What of each model type is tried: small models of its own class, with its features kept.

In: a model type of the installed transformers. Out: narrow configs (`models/twin.py`) of the text
model, each under a name. `default` is what the config class says by itself; the others are
published configs of the type (`configs/`), whose features the class may leave off.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = "default"


class NoSubjectError(Exception):
    """No small model of this type can be made; the message says why."""


def model_types() -> list[str]:
    """The types for which the installed transformers has a causal language model, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def subjects(model_type: str) -> list[str]:
    """Names of what is tried of a type: its default, and the published config that says most."""
    known = _published().get(model_type, [])
    return [DEFAULT, *known[:1]]


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
        LlmcError: the config is refused before any model is built.
    """
    from llmc.models.auto import text_config
    from llmc.models.twin import twin

    whole = _default(model_type) if subject == DEFAULT else _read(subject)
    found = twin(whole)
    if found is None:
        raise NoSubjectError(_why_not(whole))
    return text_config(found.config)


def _default(model_type: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type]()
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
