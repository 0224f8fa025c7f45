"""The text side of an artifact, opened as the runtime will open it before anything is written.

In: a `ModelSource`. Out: the bytes of `tokenizer.json`, of the chat template and of
`generation.json`. They are decoded here with the very code of the runtime, so that a compile never
ends in an artifact that can't be opened.
"""

from __future__ import annotations

from typing import Any

from ..artifact.manifest import CHAT_TEMPLATE, GENERATION, TOKENIZER, decode_generation, encode
from ..base.errors import LlmcError
from ..runtime.text.chat import ChatTemplate
from ..runtime.text.tokenizer import Tokenizer
from .assemble import generation_defaults
from .frontend.model_source import ModelSource

_HINT = "correct the files of the tokenizer beside the model, or download them again"


def text_entries(source: ModelSource) -> dict[str, bytes]:
    """The text side of `source` by entry, checked; `generation.json` is always there.

    Raises:
        LlmcError: E0417 for a tokenizer or template that the runtime couldn't open, E0418 for
            generation defaults.
    """
    text, entries = source.text, {}
    if text.tokenizer is not None:
        entries[TOKENIZER] = text.tokenizer
        _opened(source, "LLMC-E0417", lambda: Tokenizer(entries[TOKENIZER]).token_id(""))
    generation = generation_defaults(source)
    entries[GENERATION] = _opened(source, "LLMC-E0418", lambda: encode(generation))
    _opened(source, "LLMC-E0418", lambda: decode_generation(entries[GENERATION]))
    if text.chat_template:
        template = text.chat_template
        entries[CHAT_TEMPLATE] = _opened(source, "LLMC-E0417", template.encode)
        _opened(source, "LLMC-E0417", lambda: ChatTemplate(template, generation.special_tokens))
    return entries


def _opened(source: ModelSource, id: str, work: Any) -> Any:
    """What `work` returns; what the runtime would say of the artifact is said of the source."""
    try:
        return work()
    except LlmcError as error:
        raise LlmcError(id, f"{source.id}: {error.message}", _HINT) from error
    except UnicodeEncodeError as error:
        message = f"{source.id}: half of a character stands in {error.object!r:.60}"
        raise LlmcError(id, message, _HINT) from error
