"""`text_vectors.json`: what the model's own tokenizer and chat template made of fixed texts.

In: the bytes of the entry. Out: `TextVectors`. The compiler takes them from transformers; the
runtime makes the same ids and the same prompts of them, or says that it doesn't.
"""

from typing import Any

from msgspec import Struct

from .bounds import Count
from .manifest import TEXT_VECTORS, decode_entry, invalid

FIXED_TIME = "2026-01-02T03:04:05"
"""What templates that ask for the time are told while vectors are made and replayed."""
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables of a template that a vector has fields of its own for, or none."""


class _Schema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, by keyword, and strict."""


class EncodedText(_Schema, frozen=True, kw_only=True):
    """A text and its ids: alone, and with what the tokenizer puts around a text (`marked_ids`).

    `decoded` is the text of `marked_ids` without special tokens, `decoded_special` with them.
    """

    text: str
    ids: list[Count]
    marked_ids: list[Count]
    decoded: str
    decoded_special: str


class RenderedChat(_Schema, frozen=True, kw_only=True):
    """A conversation and its prompt. `variables`: what else the template is given."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = False
    variables: dict[str, Any] = {}
    prompt: str


class TextVectors(_Schema, frozen=True, kw_only=True):
    """All vectors of an artifact. `reference`: whose answers they are, with its version."""

    reference: str
    texts: list[EncodedText] = []
    chats: list[RenderedChat] = []


def decode_text_vectors(data: bytes | memoryview) -> TextVectors:
    """The vectors in `data`; E0508 if it is something else."""
    vectors = decode_entry(data, TextVectors, TEXT_VECTORS)
    for chat in vectors.chats:
        if not chat.variables.keys().isdisjoint(RESERVED):
            raise invalid(f"{TEXT_VECTORS}: a chat gives a variable that is not one")
    return vectors
