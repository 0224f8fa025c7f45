"""What each token id spells, read from the decoder of a tokenizer.json.

Most decoders work token by token: characters stand for bytes (byte-level), or each token is
rewritten on its own, byte tokens in a row become characters, and some leading characters are
stripped. For those a table from id to text is filled as ids come up, so decoding is a look-up.
`rules_of` says which they are; for any other decoder there is no table.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

Rewrite = Callable[[str, bool], str]
"""A token's text to its new text; the flag says whether it is the first token of the text."""

_BYTE_TOKEN = re.compile(r"<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>")


class Rules(Struct, frozen=True):
    """A decoder that works token by token.

    `byte_level`: characters stand for bytes; nothing else applies then. Otherwise `rewrites` change
    each token, `byte_fallback` makes bytes of tokens such as `<0x41>`, and at most `strip_count`
    characters `strip` go from the start of the whole text.
    """

    byte_level: bool = False
    rewrites: tuple[Rewrite, ...] = ()
    byte_fallback: bool = False
    strip: str = ""
    strip_count: int = 0


def rules_of(decoder: Any) -> Rules | None:
    """The rules of a decoder as it stands in tokenizer.json; None if it isn't of a known kind."""
    if decoder is None:  # tokens are joined with spaces
        return Rules(rewrites=(lambda text, first: text if first else f" {text}",))
    steps = _flat(decoder)
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return Rules(byte_level=True)
    rewrites: list[Rewrite] = []
    while steps and (rewrite := _rewrite(steps[0])):
        rewrites.append(rewrite)
        steps.pop(0)
    byte_fallback = bool(steps) and steps[0]["type"] == "ByteFallback"
    rest = steps[1:] if byte_fallback else steps
    kinds = [step["type"] for step in rest]
    if kinds in ([], ["Fuse"]):
        return Rules(False, tuple(rewrites), byte_fallback)
    if kinds == ["Fuse", "Strip"] and rest[1]["stop"] == 0:
        return Rules(False, tuple(rewrites), byte_fallback, rest[1]["content"], rest[1]["start"])
    return None


def _flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _flat(part)]


def _rewrite(step: dict[str, Any]) -> Rewrite | None:
    """A step that changes each token on its own, as a function."""
    if step["type"] == "Replace" and step["pattern"].get("String"):
        old, new = step["pattern"]["String"], step["content"]
        return lambda text, first: text.replace(old, new)
    if step["type"] == "Metaspace":
        mark = step["replacement"]
        begin = " " if step.get("prepend_scheme") == "never" else ""
        return lambda text, first: text.replace(mark, begin if first else " ")
    if step["type"] == "WordPiece":
        return _word_piece(step["prefix"], step["cleanup"])
    return None


_CLEANUP = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def _word_piece(prefix: str, cleanup: bool) -> Rewrite:
    def rewrite(text: str, first: bool) -> str:
        if not first:
            text = text.replace(prefix, "", 1) if text.startswith(prefix) else f" {text}"
        if cleanup:
            for old, new in _CLEANUP:
                text = text.replace(old, new)
        return text

    return rewrite


def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet: printable bytes stand for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


_BYTES = _byte_of_character()


class Spelling(Struct):
    """The tables of one tokenizer. `native`: its `tokenizers.Tokenizer`.

    `whole` maps an id to its text wherever it stands behind the first token and behind complete
    characters; `partial` maps an id to its bytes, where those aren't whole characters (byte-level)
    or are one byte of a run (byte fallback). Dropped ids (special ones unless `keep_special`, and
    those outside the vocabulary) have the text "".
    """

    native: Any
    keep_special: bool = False
    rules: Rules | None = None
    whole: dict[int, str] = field(default_factory=dict)
    partial: dict[int, bytes] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    """What is dropped."""

    def __post_init__(self) -> None:
        decoder = self.native.decoder
        self.rules = rules_of(json.loads(decoder.__getstate__()) if decoder else None)
        if not self.keep_special:
            added = self.native.get_added_tokens_decoder().values()
            self.special = frozenset(token.content for token in added if token.special)

    def content(self, token: int) -> str | None:
        """What stands in the vocabulary; None for an id that is dropped."""
        content = self.native.id_to_token(token) if 0 <= token < 1 << 32 else None
        return None if content in self.special else content

    def learn(self, token: int) -> str | None:
        """Fills the tables for an id; returns its entry in `whole`, if it has one."""
        content = self.content(token)
        raw: bytes | None = None
        if content is None:
            text: str | None = ""
        elif self._rules.byte_level:
            raw = byte_level(content)
            text = _complete(raw)
        else:
            text, raw = self.spell(content, first=False)
        if text is None:
            assert raw is not None
            self.partial[token] = raw
        else:
            self.whole[token] = text
        return text

    def spell(self, content: str, *, first: bool) -> tuple[str, None] | tuple[None, bytes]:
        """The text of a token, or its byte if it is a byte token (no byte-level rules)."""
        for rewrite in self._rules.rewrites:
            content = rewrite(content, first)
        if self._rules.byte_fallback and (match := _BYTE_TOKEN.fullmatch(content)):
            return None, bytes([int(match[1], 16)])
        return content, None

    @property
    def _rules(self) -> Rules:
        assert self.rules is not None
        return self.rules


def byte_level(content: str) -> bytes:
    """The bytes for which characters stand; a token with any other character is plain text."""
    try:
        return bytes([_BYTES[character] for character in content])
    except KeyError:
        return content.encode("utf-8")


def _complete(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
