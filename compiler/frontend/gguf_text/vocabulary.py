"""The vocabulary that a GGUF file's metadata holds, checked.

In: a `GgufFile`. Out: a `Vocabulary`: tokens by id, their kinds, scores and merges, or None for a
file without one. Keys, kinds and the names of vocabularies are those of the GGUF specification and
of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from ....base.errors import LlmcError
from ..gguf_file import GgufFile

BYTE_LEVEL, SCORED, UNIGRAM, WORD_PIECE, SPACED = "gpt2", "llama", "t5", "bert", "gemma4"
"""The kinds of vocabulary that are read, by `tokenizer.ggml.model`."""
KINDS = (BYTE_LEVEL, SCORED, UNIGRAM, WORD_PIECE, SPACED)
NO_VOCABULARY = ("none", "no_vocab")
_KEY = "tokenizer.ggml."


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KIND_OF = {int(kind): kind for kind in TokenKind}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their kinds; `scores` are empty and `merges` None where the file has none.

    `flags` are the other keys below `tokenizer.ggml.`, without that prefix.
    """

    where: str
    model: str
    tokens: list[str]
    kinds: list[TokenKind]
    scores: list[float]
    merges: list[tuple[str, str]] | None
    flags: Mapping[str, Any]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id by token."""
        return {token: id for id, token in enumerate(self.tokens)}

    def flag(self, key: str, default: bool) -> bool:
        """A key that is true or false.

        Raises:
            LlmcError: E0418 for another value.
        """
        value = self.flags.get(key, default)
        if not isinstance(value, bool):
            raise LlmcError("LLMC-E0418", f"{self.where}: {_KEY}{key} is neither true nor false")
        return value

    def of_kind(self, *kinds: TokenKind) -> list[int]:
        """Ids of the tokens of `kinds`."""
        return [id for id, kind in enumerate(self.kinds) if kind in kinds]


def read_vocabulary(file: GgufFile) -> Vocabulary | None:
    """The vocabulary of `file`; None if it has none.

    Raises:
        LlmcError: E0403 for a kind of vocabulary that isn't read, E0417 or E0418 for one that makes
            no sense.
    """
    where = file.file.path.name
    model = file.get(f"{_KEY}model")
    if f"{_KEY}tokens" not in file.entries or model in NO_VOCABULARY:
        return None
    if model not in KINDS:
        raise LlmcError(
            "LLMC-E0403",
            f"{where}: a tokenizer of kind {model!r} can't be built; known are {', '.join(KINDS)}",
        )
    tokens = [t or f"[EMPTY_{id}]" for id, t in enumerate(file.strings(f"{_KEY}tokens"))]
    if len(set(tokens)) != len(tokens):
        raise LlmcError("LLMC-E0418", f"{where}: the token {_twice(tokens)!r:.60} has two ids")
    kinds = _numbers(file, "token_type", len(tokens))
    return Vocabulary(
        where,
        model,
        tokens,
        [_KIND_OF.get(number, TokenKind.UNDEFINED) for number in kinds]
        or [_kind_of_text(t, model) for t in tokens],
        [float(score) for score in _numbers(file, "scores", len(tokens))],
        _merges(file),
        flags_of(file),
    )


def flags_of(file: GgufFile) -> dict[str, Any]:
    """The values of all keys below `tokenizer.ggml.`, without that prefix."""
    return {
        key.removeprefix(_KEY): entry.value
        for key, entry in file.entries.items()
        if key.startswith(_KEY)
    }


def _twice(tokens: list[str]) -> str:
    seen: set[str] = set()
    return next(token for token in tokens if token in seen or seen.add(token))


def _kind_of_text(token: str, model: str) -> TokenKind:
    """The kind in a file that has no kinds: bytes are still written as bytes."""
    byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return TokenKind.BYTE if byte and model in (SCORED, SPACED) else TokenKind.NORMAL


def _numbers(file: GgufFile, key: str, count: int) -> list[Any]:
    """An array with a number for each token; empty if the file has none."""
    values = file.get(f"{_KEY}{key}", [])
    numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
    if not numbers or (values and len(values) < count):
        raise LlmcError(
            "LLMC-E0418", f"{file.file.path.name}: {_KEY}{key} is no list of {count} numbers"
        )
    return values[:count]


def _merges(file: GgufFile) -> list[tuple[str, str]] | None:
    """Pairs in the order of their ranks; the first of two equal ones counts."""
    key = f"{_KEY}merges"
    if key not in file.entries:
        return None
    pairs = {}
    for text in file.strings(key):
        at = text.find(" ", 1)  # a merge of a space with something begins with one
        if at < 0:
            raise LlmcError("LLMC-E0418", f"{file.file.path.name}: {text!r:.60} is no merge")
        pairs.setdefault((text[:at], text[at + 1 :]))
    return list(pairs)
