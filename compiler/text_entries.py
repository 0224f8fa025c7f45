"""The text side of an artifact, opened as the runtime will open it before anything is written.

In: a `ModelSource`. Out: the bytes of `tokenizer.json`, of the chat templates, of `generation.json`
and of the vectors that prove them. They are decoded here with the very code of the runtime, so that
a compile never ends in an artifact that can't be opened, or whose text is not transformers'.
"""

from __future__ import annotations

from typing import Any

from ..artifact.manifest import (
    GENERATION,
    TEXT_VECTORS,
    TOKENIZER,
    decode_generation,
    encode,
)
from ..artifact.text_vectors import TextVectors, decode_text_vectors
from ..base.errors import LlmcError
from ..runtime.text.replay import wrong_ids, wrong_prompts, wrong_texts
from ..runtime.text.templates import ChatTemplates
from ..runtime.text.tokenizer import Tokenizer
from .assemble import generation_defaults, template_entries, template_sources
from .frontend.model_source import ModelSource
from .frontend.text_vectors import BuiltTokenizer, text_vectors

_HINT = "correct the files of the tokenizer beside the model, or download them again"


def text_entries(source: ModelSource) -> dict[str, bytes]:
    """The text side of `source` by entry, checked; `generation.json` is always there.

    Raises:
        LlmcError: E0417 for a tokenizer or template that the runtime couldn't open, E0418 for
            generation defaults, E0427 if the runtime makes other ids or prompts than transformers.
    """
    text, entries = source.text, {}
    tokenizer = native = templates = None
    if text.tokenizer is not None:
        entries[TOKENIZER] = text.tokenizer
        tokenizer = Tokenizer(text.tokenizer, split_special_tokens=text.split_special_tokens)
        native = _opened(source, "LLMC-E0417", lambda: tokenizer.native)
    generation = generation_defaults(source, native)
    entries[GENERATION] = _opened(source, "LLMC-E0418", lambda: encode(generation))
    _opened(source, "LLMC-E0418", lambda: decode_generation(entries[GENERATION]))
    sources = template_sources(text)
    for name, entry in template_entries(text).items():
        entries[entry] = _opened(source, "LLMC-E0417", sources[name].encode)
    if sources:
        templates = _opened(
            source, "LLMC-E0417", lambda: ChatTemplates(sources, generation.special_tokens)
        )
    if tokenizer is not None:
        vectors = text.vectors
        if vectors is None:
            built = BuiltTokenizer(native, sources, generation.special_tokens)
            vectors = text_vectors(built, templates)
        entries[TEXT_VECTORS] = encode(vectors)
        _prove(source, tokenizer, templates, decode_text_vectors(entries[TEXT_VECTORS]))
    return entries


def _prove(
    source: ModelSource, tokenizer: Tokenizer, templates: ChatTemplates | None, told: TextVectors
) -> None:
    """Raises E0427 unless the runtime makes what transformers made."""

    def encoded(text: str, marked: bool) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=marked)

    wrong = wrong_ids(encoded, told.texts) or wrong_texts(tokenizer, told.texts)
    if wrong is None and templates is not None:
        wrong = wrong_prompts(templates, told.chats)
    if wrong is not None:
        raise LlmcError("LLMC-E0427", f"{source.id}: {wrong}")


def _opened(source: ModelSource, id: str, work: Any) -> Any:
    """What `work` returns; what the runtime would say of the artifact is said of the source."""
    try:
        return work()
    except LlmcError as error:
        raise LlmcError(id, f"{source.id}: {error.message}", _HINT) from error
    except UnicodeEncodeError as error:
        message = f"{source.id}: half of a character stands in {error.object!r:.60}"
        raise LlmcError(id, message, _HINT) from error
