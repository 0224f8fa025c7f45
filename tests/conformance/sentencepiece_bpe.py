"""How llama.cpp cuts text with a SentencePiece vocabulary, written from its `llm_tokenizer_spm`.

Control and user-defined tokens are taken out of the text first, the longest before shorter ones.
What lies between them begins as single characters, and of all neighbours whose join is in the
vocabulary those with the highest score are joined, the leftmost first, until none are left.
Characters outside of the vocabulary become their UTF-8 bytes. Spaces are written `▁`.
"""

import heapq
from collections.abc import Sequence

CONTROL, USER_DEFINED = 3, 4


class SentencePieceBpe:
    """A vocabulary: texts, scores and token types, as a GGUF file holds them."""

    def __init__(self, tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]):
        self.ids: dict[str, int] = {}
        for number, token in enumerate(tokens):
            self.ids.setdefault(token, number)
        self.scores = scores
        whole = [
            t for t, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)
        ]
        self.whole = sorted(whole, key=lambda token: -len(token.encode()))

    def encode(self, text: str, first: Sequence[int] = ()) -> list[int]:
        """Token ids of `text` behind the ids `first`."""
        parts: list[str | int] = [text]
        for token in self.whole:
            if any(isinstance(part, str) and token in part for part in parts):
                parts = [new for part in parts for new in self._without(token, part)]
        ids = list(first)
        for part in parts:
            ids += [part] if isinstance(part, int) else self._joined(part)
        return ids

    def _without(self, token: str, part: str | int) -> list[str | int]:
        if isinstance(part, int):
            return [part]
        pieces: list[str | int] = []
        for i, piece in enumerate(part.split(token)):
            pieces += [self.ids[token]] * (i > 0) + [piece] * bool(piece)
        return pieces

    def _joined(self, text: str) -> list[int]:
        symbols = list(text.replace(" ", "▁"))
        before = list(range(-1, len(symbols) - 1))
        after = [*range(1, len(symbols)), -1]
        queue: list[tuple[float, int, int, int]] = []

        def propose(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                joined = symbols[left] + symbols[right]
                if joined in self.ids:
                    score = self.scores[self.ids[joined]]
                    heapq.heappush(queue, (-score, left, right, len(joined)))

        for i in range(1, len(symbols)):
            propose(i - 1, i)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            sizes = len(symbols[left]), len(symbols[right])
            if not all(sizes) or sum(sizes) != length:
                continue  # one of the two was joined with another one meanwhile
            symbols[left], symbols[right] = symbols[left] + symbols[right], ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            propose(before[left], left)
            propose(left, after[left])
        return [number for symbol in symbols if symbol for number in self._ids_of(symbol)]

    def _ids_of(self, symbol: str) -> list[int]:
        if symbol in self.ids:
            return [self.ids[symbol]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
