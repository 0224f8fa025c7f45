"""`ZooModel`: the description of one tiny random model, and how it becomes a model or a folder.

In: a `transformers` configuration class by name and its keyword arguments.
Out: an eager CPU model with random weights (`build`), or a checkpoint folder (`save`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmc.models.random_weights import EMBEDDING_STD, randomize

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

BYTE_TOKENS = 256
SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")
VOCAB = 272
"""256 bytes, the special tokens, and a few ids that the tokenizer never produces."""

PAD, BOS, EOS = BYTE_TOKENS, BYTE_TOKENS + 1, BYTE_TOKENS + 2

HEAD = 16
WINDOW = 8
THRESHOLD = 32
"""Head size, sliding window and original context length of the zoo, where a model has one."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Expected = Literal["compiles", "refused"]


@dataclass(frozen=True)
class ZooModel:
    """One tiny model.

    `config_class` names a configuration class of `transformers`; `config` holds its arguments;
    `features` says what the model is in the zoo for. `max_context` is the longest sequence that
    the model is compiled for and tested with: rotary tables that depend on it are fixed for it.
    `embedding_std` is smaller where the model multiplies its embeddings, so that the layers' own
    outputs still count.
    """

    name: str
    config_class: str
    config: Mapping[str, Any]
    features: tuple[str, ...]
    seed: int = 0
    max_context: int = 128
    embedding_std: float = EMBEDDING_STD
    expected: Expected = "compiles"

    def configuration(self) -> PreTrainedConfig:
        """Return the `transformers` configuration."""
        import transformers

        return getattr(transformers, self.config_class)(**self.config)

    def build(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Return the model on the CPU with eager attention and experts, in `dtype` (float32)."""
        import torch
        import transformers

        state = torch.random.get_rng_state()
        try:
            torch.manual_seed(self.seed)
            model = transformers.AutoModelForCausalLM.from_config(
                self.configuration(),
                dtype=torch.float32,
                attn_implementation="eager",
                experts_implementation="eager",
            )
        finally:
            torch.random.set_rng_state(state)
        randomize(model, self.seed, self.embedding_std)
        return model.eval().requires_grad_(False).to(dtype or torch.float32)

    def save(
        self,
        folder: Path,
        *,
        dtype: torch.dtype | None = None,
        tokenizer: bool = True,
        max_shard_size: str = "5GB",
    ) -> Path:
        """Write a Hugging Face checkpoint folder (config, safetensors, tokenizer); return it."""
        self.build(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
        if tokenizer:
            save_tokenizer(folder, self.max_context)
        return folder


def decoder(**overrides: Any) -> dict[str, Any]:
    """Return the arguments that most decoder configurations share, with `overrides`."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **overrides,
    }


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return `config` less `names`."""
    return {name: value for name, value in config.items() if name not in names}


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """Return `rope_parameters` of type `kind`."""
    return {"rope_type": kind, "rope_theta": 10000.0, **parameters}


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer of one token a byte plus `SPECIAL_TOKENS`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save_tokenizer(folder: Path, max_length: int) -> None:
    """Write `byte_tokenizer` and a chat template into a checkpoint folder."""
    import transformers

    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        pad_token=SPECIAL_TOKENS[0],
        bos_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[2],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
    ).save_pretrained(folder)
