"""The text side of a GGUF file: tokenizer, chat template, special token ids.

In: a `GgufFile`. Out: `TextAssets` with a `tokenizer.json` built by transformers from the file's
vocabulary, and notes on what could not be taken over exactly.
"""

from __future__ import annotations

from typing import Any

from ...base.errors import LlmcError
from ...runtime.text.tokenizer import unlimited
from .generation_fields import token_ids
from .gguf_file import GgufFile
from .model_source import TextAssets
from .names import incompatible

# Byte-level vocabularies whose text is split at every digit and then as GPT-2 does. transformers
# has no entry for these names of `tokenizer.ggml.pre`, and would merge digits.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
_LIKE_GPT2 = ("default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def gguf_text_assets(file: GgufFile) -> tuple[TextAssets, tuple[str, ...]]:
    """The file's text side, and lines for the user.

    Raises:
        LlmcError: E0403 if transformers can't build the kind of tokenizer that the file holds,
            E0418 for a special token's id that is none.
    """
    license = _text(file, "general.license")
    generation, notes = _generation(file)
    if "tokenizer.ggml.tokens" not in file.entries:
        return TextAssets(generation=generation, license=license), notes
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import (
            convert_gguf_tokenizer,
            get_gguf_tokenizer,
        )
    except ImportError as error:
        raise incompatible(error) from error
    try:
        architecture, parameters, settings = get_gguf_tokenizer(str(file.file.path))
        tokenizer, _ = convert_gguf_tokenizer(architecture, parameters)
    except (ValueError, KeyError, IndexError) as error:
        raise LlmcError("LLMC-E0403", f"{file.file.path.name}: {error}") from error
    notes += _fix_splitting(tokenizer, parameters)
    _add_marks(tokenizer, parameters, settings)
    unlimited(tokenizer)
    assets = TextAssets(
        tokenizer=tokenizer.to_str().encode(),
        chat_template=_text(file, "tokenizer.chat_template"),
        generation=generation,
        license=license,
    )
    return assets, notes


def _text(file: GgufFile, key: str) -> str | None:
    value = file.get(key)
    if value is not None and not isinstance(value, str):
        raise LlmcError("LLMC-E0417", f"{file.file.path.name}: {key} is not a text")
    return value


def _generation(file: GgufFile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Special token ids that the metadata states, and lines for the user."""
    generation: dict[str, Any] = {}
    notes: list[str] = []

    def ids(key: str) -> list[int]:
        key = f"tokenizer.ggml.{key}"
        found, lost = token_ids(file.get(key), f"{file.file.path.name}: {key}")
        notes.extend(lost)
        return found if isinstance(found, list) else [] if found is None else [found]

    if any(f"tokenizer.ggml.{key}" in file.entries for key in _END_KEYS):
        generation["eos_token_id"] = list(dict.fromkeys(i for key in _END_KEYS for i in ids(key)))
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        for number in ids(key):
            generation[name] = number
    return generation, tuple(notes)


def _fix_splitting(tokenizer: Any, parameters: dict[str, Any]) -> tuple[str, ...]:
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    pre = parameters.get("pre_tokenizer_type", "default")
    known = getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {})
    if parameters.get("tokenizer_type") != "gpt2" or pre in known or pre in _LIKE_GPT2:
        return ()
    if pre not in _SINGLE_DIGITS:
        return (f"pre-tokenizer {pre!r} of the GGUF file is not known: text is split as in GPT-2",)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return ()


def _add_marks(tokenizer: Any, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
    """Begin and end marks that the file wants around a text."""
    from tokenizers.processors import TemplateProcessing

    begin = settings.get("bos_token") if settings.get("add_bos_token") else None
    end = settings.get("eos_token") if settings.get("add_eos_token") else None
    marks = {t: parameters["tokens"].index(t) for t in (begin, end) if t is not None}
    if marks:
        one = [*([begin] if begin else []), "$A", *([end] if end else [])]
        second = ["$B:1", *([f"{end}:1"] if end else [])]
        tokenizer.post_processor = TemplateProcessing(
            single=one, pair=[*one, *second], special_tokens=list(marks.items())
        )
