"""Which of transformers' classes builds the language model of a config.

In: a config as `AutoConfig` reads it. Out: the config of its text model, and the auto class that
builds it. Nearly every multimodal config has a part `text_config` whose type is a causal language
model of its own; that part is what is compiled. Where it is none, the multimodal model itself is
built, and what else it has besides text (`vision_config`, …) is never run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config to compile: the text part if that is a model of its own, else `config`.

    Whether embedding and head share a tensor is the whole config's to say.
    """
    from transformers import AutoModelForCausalLM

    part = getattr(config, "text_config", None)
    if part is None or auto_class(config) is None or not _builds(AutoModelForCausalLM, part):
        return config
    if hasattr(config, "tie_word_embeddings"):
        part.tie_word_embeddings = config.tie_word_embeddings
    return part


def auto_class(config: PreTrainedConfig) -> Any | None:
    """The auto class with a model of this type, or None: one for text comes first."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    known = (AutoModelForCausalLM, AutoModelForMultimodalLM)
    return next((auto for auto in known if _builds(auto, config)), None)


def whole_class(config: PreTrainedConfig) -> Any | None:
    """The auto class with the whole multimodal model of this type, or None."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    known = (AutoModelForMultimodalLM, AutoModelForCausalLM)
    return next((auto for auto in known if _builds(auto, config)), None)


def other_task(names: object) -> str | None:
    """The first of `architectures` if it is a class of transformers that makes no text.

    Names that transformers doesn't know, and models without a head, say nothing.
    """
    name = names[0] if isinstance(names, list) and names else None
    known = _tables_with(name)
    return None if not known or known & _MAKE_TEXT else str(name)


def is_known_class(name: object) -> bool:
    """Whether transformers has a model class of this name."""
    return bool(_tables_with(name))


_MAKE_TEXT = {
    "MODEL_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
}  # fmt: skip


def _tables_with(name: object) -> set[str]:
    """Which of transformers' tables of classes list `name`; some hold several for one type."""
    from transformers.models.auto import modeling_auto

    return {
        key
        for key, table in vars(modeling_auto).items()
        if key.endswith("_MAPPING_NAMES")
        and any(name == v or (isinstance(v, tuple | list) and name in v) for v in table.values())
    }


def _builds(auto: Any, config: PreTrainedConfig) -> bool:
    return type(config) in auto._model_mapping


@contextlib.contextmanager
def no_advice() -> Iterator[None]:
    """transformers has advice on odd configs, as twins are on purpose: it isn't printed."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
