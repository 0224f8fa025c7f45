"""What every kind of model source gives the compiler.

In: nothing; this is the shared vocabulary of `checkpoint.py` and `gguf_source.py` (which make
sources) and of `names.py` and the driver (which use them). No weights are held: `tensors` are names
with types, `reader` reads rows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...artifact.text_vectors import TextVectors
from ...weights.recipes import CheckpointTensor, Recipe
from ...weights.values import TensorReader
from .adapter import Adapter
from .weight_digests import WeightDigests

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """Result of a conversion: recipes by parameter name, and the tensors that reached none.

    `unexpected` maps a checkpoint tensor's name to the name it would have had in the model;
    `left_out` are tensors of parts of the checkpoint's model that are not compiled. `renamed` maps
    a parameter's name in that model to the name in the compiled one (None: it is left out); it is
    empty where the model is compiled whole.
    """

    recipes: dict[str, Recipe]
    unexpected: dict[str, str]
    left_out: frozenset[str] = frozenset()
    renamed: Mapping[str, str | None] = field(default_factory=dict)


Convert = Callable[["PreTrainedModel", Mapping[str, Recipe]], Loaded]


@dataclass(frozen=True)
class TextAssets:
    """What turns text into token ids and back; None or empty where the source has none.

    `tokenizer` is the content of a `tokenizer.json`, `chat_template` a Jinja template,
    `named_templates` are others by name, `generation` the defaults of `generation_config.json` (at
    least the special token ids). `special_tokens` is what templates may name (None: what the ids in
    `generation` stand for), `vectors` what transformers makes of texts and chats (None: what it
    makes of the tokenizer and the templates above).
    """

    tokenizer: bytes | None = None
    chat_template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] | None = None
    split_special_tokens: bool = False
    vectors: TextVectors | None = None


@dataclass(frozen=True)
class ModelSource:
    """A model to compile: config, tensors by name, and what belongs to its text side.

    `id` and `revision` say where it came from; `config_bytes` is what the config was read from;
    `unread` are fields of it that no code of transformers reads; `notes` are lines that the compile
    should print. `quantization`: the method with which the checkpoint is quantized. `adapters` are
    merged into the weights in this order; `ties` are parameters (name → name) that share a tensor
    in `tensors`, and no longer do because of an adapter.
    """

    id: str
    revision: str | None
    config: PreTrainedConfig
    config_bytes: bytes
    tensors: Mapping[str, CheckpointTensor]
    reader: TensorReader
    convert: Convert
    text: TextAssets
    digests: WeightDigests
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quantization: str | None = None
    adapters: tuple[Adapter, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
