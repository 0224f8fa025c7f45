"""Config fields that no code reads.

In: a raw `config.json` and the config that transformers made of it. Out: the names of fields that
neither the config's class declares nor its code or the model's mentions. Such a field may be a
changed architecture under an old name; since the contract is equality with transformers, which
ignores it as well, it is worth a note and no more (an error with `--strict-config`).

Code is looked at, not run: a field that is popped while the config is built, or read only in a
branch that this model doesn't take, is read all the same.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from ...models.auto import auto_class, whole_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

INERT = frozenset({
    "architectures", "auto_map", "attn_pdrop", "attention_dropout", "chunk_size_feed_forward",
    "dtype", "embd_pdrop", "hidden_dropout", "id2label", "initializer_range", "is_decoder",
    "is_encoder_decoder", "is_llama_config", "label2id", "max_position_embeddings", "model_type",
    "output_router_logits", "pretraining_tp", "problem_type", "quantization_config", "resid_pdrop",
    "return_dict", "router_aux_loss_coef", "router_jitter_noise", "rope_interleaved",
    "task_specific_params", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class",
    "torch_dtype", "torchscript", "transformers.js_config", "transformers_version",
    "unsloth_version", "use_cache", "vocab_size", "pruned_heads", "add_cross_attention",
    "cross_attention_hidden_size", "aux_loss_alpha", "seq_aux", "ep_size", "max_window_layers",
    "num_nextn_predict_layers", "num_mtp_modules", "tokenizer_name", "verbose", "prefix",
})  # fmt: skip
"""Fields that don't change a causal language model's logits (names, training, exports)."""
_INERT_KINDS = re.compile(r"_.*|.*_token_id|.*dropout(_prob)?|summary_.*|mtp_.*|.*_?init_.*")
"""The same by kind: private fields, ids of tokens, training, heads for other tasks."""


def unread_fields(
    raw: dict[str, Any], whole: PreTrainedConfig, compiled: PreTrainedConfig
) -> list[str]:
    """Fields of `raw` that nothing reads, nested ones as `part.field`, sorted.

    `whole` is the config made of `raw`; `compiled` is `whole` or its text part. Other parts are
    left out of the program and of this. Fields that are off (null, false) can't matter.
    """
    if compiled is whole:
        return sorted(_unread(raw, whole))
    part = raw.get("text_config")
    inner = _unread(part, compiled) if isinstance(part, dict) else ()
    return sorted([*_unread(raw, whole), *(f"text_config.{name}" for name in inner)])


def _unread(raw: dict[str, Any], config: PreTrainedConfig) -> Iterator[str]:
    known = INERT | _generation_fields() | _declared(type(config)) | _mentioned(config)
    for name, value in raw.items():
        off = value is None or value is False
        inert = name in known or _INERT_KINDS.fullmatch(name)
        if not off and not inert:
            yield name


@cache
def _generation_fields() -> frozenset[str]:
    """Defaults of text generation, which old tools dumped into config.json as well."""
    from transformers import GenerationConfig

    return frozenset(GenerationConfig().to_dict())


def _declared(cls: type) -> set[str]:
    """Names that a config class takes, under every name it has for them."""
    names = set(getattr(cls, "__dataclass_fields__", ()))
    for base in cls.__mro__:
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    aliases = getattr(cls, "attribute_map", {})
    return names | set(aliases) | set(aliases.values())


def _mentioned(config: PreTrainedConfig) -> frozenset[str]:
    """Names in the code of the config's classes and of the models that may be built of it."""
    classes: list[Any] = [base for base in type(config).__mro__ if base is not object]
    for auto in (auto_class(config), whole_class(config)):
        if auto is not None:
            classes.append(auto._model_mapping[type(config)])
    from transformers import modeling_rope_utils

    modules = {modeling_rope_utils.__name__, *(cls.__module__ for cls in classes)}
    return frozenset().union(*map(_names_in, modules))


@cache
def _names_in(module: str) -> frozenset[str]:
    """Attributes, arguments and literal strings in a module's source; none if it has no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return frozenset()
    return frozenset(_names(ast.walk(tree)))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
