"""Log-probabilities in the forms of the two OpenAI interfaces that have them."""

from collections.abc import Sequence
from typing import Any

from ...runtime.engine.request import Request, TokenLogprob
from ...runtime.text.detokenizer import Detokenizer, detokenizer
from ...runtime.text.tokenizer import Tokenizer

_LEAST = -9999.0
"""What is said of a token that can't come: JSON has no infinity."""


def chat_entries(tokenizer: Tokenizer, found: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As `choices[].logprobs.content` of chat completions has them."""
    return [
        {
            **_entry(tokenizer, one.token_id, one.logprob),
            "top_logprobs": [_entry(tokenizer, token, value) for token, value in one.top],
        }
        for one in found
    ]


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    text = raw.decode("utf-8", "replace")
    return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(raw)}


class CompletionLogprobs:
    """Builds `choices[].logprobs` of completions, for one text as it comes.

    An offset is the place in the text of the character that the token begins, or that it is a part
    of. `keep_special`: whether special tokens of what is generated are in the text.
    """

    def __init__(self, tokenizer: Tokenizer, *, keep_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer(tokenizer, keep_special=keep_special)
        self._length = 0

    def entries(
        self, tokens: Sequence[int], found: Sequence[TokenLogprob | None], *, echoed: int = 0
    ) -> dict[str, Any]:
        """The next tokens; None for one that has no probability, as the first of a prompt.

        The first `echoed` are a prompt, whose text is decoded by itself.
        """
        offsets: list[int] = []
        if echoed:
            prompt = detokenizer(self._tokenizer)
            offsets += self._offsets(prompt, tokens[:echoed])
            self._length += len(prompt.flush())
        offsets += self._offsets(self._detokenizer, tokens[echoed:])
        return {
            "tokens": [self._text(token) for token in tokens],
            "token_logprobs": [None if one is None else max(one.logprob, _LEAST) for one in found],
            "top_logprobs": [self._top(one) for one in found],
            "text_offset": offsets,
        }

    def _offsets(self, reader: Detokenizer, tokens: Sequence[int]) -> list[int]:
        offsets = []
        for token in tokens:
            offsets.append(self._length + reader.held)
            self._length += len(reader.push(token))
        return offsets

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")

    def _top(self, one: TokenLogprob | None) -> dict[str, float] | None:
        if one is None or not one.top:
            return None
        top = {self._text(token): max(value, _LEAST) for token, value in one.top}
        top.setdefault(self._text(one.token_id), max(one.logprob, _LEAST))
        return top


class NewLogprobs:
    """Hands out the log-probabilities of a request as its tokens come."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._given = 0

    def take(self, count: int) -> tuple[list[int], list[TokenLogprob]]:
        """Ids and log-probabilities of the next `count` tokens."""
        first, self._given = self._given, self._given + count
        request = self._request
        return request.output[first : self._given], request.logprobs[first : self._given]
