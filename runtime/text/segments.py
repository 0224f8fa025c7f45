"""Token ids of prompts whose parts were seen before: a system prompt, the turns of a chat.

A special token ends what tokenizers look at: the text before and after it is normalized, split and
merged apart. So the ids of a prompt are those of its segments between special tokens behind one
another, and a segment that came before is looked up. `SegmentCache.of` says for which tokenizers
that holds; a test compares with encoding the whole.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

_CHARACTERS = 1 << 20
"""How much text is remembered; the least recently used goes first."""


class SegmentCache:
    """Encodes texts without what a post-processor adds. `boundaries`: the special tokens at which
    texts may be taken apart, and their ids; `pattern` finds all special tokens."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        pattern: re.Pattern[str],
        boundaries: dict[str, int],
    ) -> None:
        self._encode, self._pattern, self._boundaries = encode, pattern, boundaries
        self._known: OrderedDict[str, list[int]] = OrderedDict()
        self._characters = 0
        self._lock = Lock()

    @classmethod
    def of(cls, native: Any, encode: Callable[[str], list[int]]) -> "SegmentCache | None":
        """A cache for a `tokenizers.Tokenizer`; None if its segments depend on one another.

        They do if the place in the text matters (a space is put before the first word only), if
        a token is one only between words, if texts are cut or padded, if merging is random, or if
        special tokens that stand in a text are split.
        """
        if native.truncation or native.padding or getattr(native.model, "dropout", None):
            return None
        if native.encode_special_tokens:
            return None
        parts = native.pre_tokenizer.__getstate__() if native.pre_tokenizer else b"null"
        if _depends_on_place(json.loads(parts)):
            return None
        tokens = native.get_added_tokens_decoder().values()
        if any(token.single_word for token in tokens):
            return None
        added = [token for token in tokens if not token.normalized]
        boundaries = {
            token.content: native.token_to_id(token.content)
            for token in added
            if not (token.lstrip or token.rstrip)
        }
        # At one place the longest counts, as in the tokenizer's own search.
        contents = sorted((token.content for token in added), key=len, reverse=True)
        if not boundaries:
            return None
        return cls(encode, re.compile("|".join(map(re.escape, contents))), boundaries)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        begin = 0
        for found in self._pattern.finditer(text):
            token = self._boundaries.get(found.group())
            if token is not None:
                ids += self._segment(text[begin : found.start()])
                ids.append(token)
                begin = found.end()
        return ids + self._segment(text[begin:])

    def _segment(self, text: str) -> list[int]:
        if not text:
            return []
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known
        ids = self._encode(text)
        with self._lock:
            if text not in self._known and len(text) <= _CHARACTERS // 4:
                self._known[text] = ids
                self._characters += len(text)
            while self._characters > _CHARACTERS:
                self._characters -= len(self._known.popitem(last=False)[0])
        return ids


def _depends_on_place(pre_tokenizer: Any) -> bool:
    if pre_tokenizer is None:
        return False
    if pre_tokenizer["type"] == "Sequence":
        return any(_depends_on_place(part) for part in pre_tokenizer["pretokenizers"])
    return pre_tokenizer["type"] == "Metaspace" and pre_tokenizer["prepend_scheme"] == "first"
