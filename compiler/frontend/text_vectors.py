"""What transformers makes of fixed texts and chats, for the artifact to be held to.

In: one of transformers' tokenizers, with its chat templates. Out: `TextVectors`. A conversation
that a template refuses or doesn't show as it is meant proves nothing and is left out: llmc then
hands it over in another form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any
from unittest import mock

import msgspec

from ...artifact.text_vectors import FIXED_TIME, EncodedText, RenderedChat, TextVectors
from ...base.errors import LlmcError
from ...runtime.text.template_sandbox import BoundExceeded
from ...runtime.text.templates import ChatTemplates
from ...runtime.text.tokenizer import guarded

_TEXTS = (
    "Hello world", " leading", "trailing ", "  two  spaces   three", "\ttab\t\tand\u00a0more",
    "one\ntwo\n\nthree\r\nfour\n", "\n", "   ", "0 12 345 6789 1234567890 3.14159 1,000,000",
    "It's we're I'LL they'd can't O'Neill ’s", "def f(x):\n    return x**2  # 2\n\n\tif a != b:",
    "naïve café Ångström straße", "e\u0301 is not é; ﬁ ligature, ①②, Ⅳ",
    "Привет, мир! Γειά σου Κόσμε", "日本語とテキスト。中文，标点！한국어", "שלום مرحبا हिन्दी ไทย",
    "emoji 🙂👍🏽👩‍👩‍👧 and 🇨🇭", "\u200bzero\u200dwidth\ufeff \u2028 line", "🧿𝔘𝔫𝔦 \U0010fffd",
    "<tag attr=\"v\">&amp;</tag> {json: [1, 2]} $x_1$ \\n %20 https://a.b/c?d=e#f",
    "UPPER lower MixedCase snake_case kebab-case camelCase", "!!! ... --- ___ ??? ;;; ::: ***",
    "\x01\x02\x7f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)  # fmt: skip
_MOST_TOKENS = 256
"""Added tokens whose ids are recorded; of more than that, the first, the last, and those that a
chat template names."""

_SYSTEM = {"role": "system", "content": "Be brief."}
_ASK = {"role": "user", "content": "How warm is it in Bern?"}
_PADDED = {"role": "user", "content": "  Two words\n"}
_ANSWER = {"role": "assistant", "content": "It is warm."}
_MORE = {"role": "user", "content": "And <b>tomorrow</b>? Ümlaut 🙂"}
_THOUGHT = {  # by both names that templates read: not every transformers knows them for the same
    "role": "assistant",
    "content": "Warm.",
    "reasoning_content": "Bern is a city.",
    "thinking": "Bern is a city.",
}
_PARTS = {
    "role": "user",
    "content": [{"text": "How warm", "type": "text"}, {"text": " is it?", "type": "text"}],
}
_FUNCTION = {
    "description": "The weather of a city",
    "name": "weather_of_city",
    "parameters": {
        "properties": {"city": {"description": "Its name", "type": "string"}},
        "required": ["city"],
        "type": "object",
    },
}
_TOOLS = [{"function": _FUNCTION, "type": "function"}]
_CALLED = {"arguments": {"city": "Bern"}, "name": "weather_of_city"}
_CALL = {
    "role": "assistant",
    "tool_calls": [{"function": _CALLED, "id": "call00001", "type": "function"}],
}
_RESULT = {
    "content": "31 degrees",
    "name": "weather_of_city",
    "role": "tool",
    "tool_call_id": "call00001",
}

_CHATS: tuple[tuple[list[dict[str, Any]], bool], ...] = (
    ([_ASK], False),
    ([_PADDED], False),
    ([_SYSTEM, _ASK], False),
    ([_ASK, _ANSWER, _MORE], False),
    ([_SYSTEM, _ASK, _ANSWER, _MORE, _THOUGHT], False),
    ([_ASK, _THOUGHT, _MORE], False),
    ([_PARTS], False),
    ([_PARTS, _ANSWER, _PARTS], False),
    ([_ASK], True),
    ([_SYSTEM, _ASK, _CALL, _RESULT], True),
    ([_ASK, _CALL, _RESULT, _ANSWER, _MORE], True),
)
"""Conversations, and whether tools are offered."""
_AS_WRITTEN = ("'type'", '"type": "text"', "{'city'", '{\\"city', "None")
_VARIABLES: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False})


class BuiltTokenizer:
    """As much of transformers' tokenizer as is asked here, of parts that transformers hasn't read
    from a folder: a `tokenizers.Tokenizer`, templates by name, and what they may name."""

    def __init__(
        self, native: Any, templates: Mapping[str, str], special_tokens: Mapping[str, str]
    ) -> None:
        self._native, self.chat_template = native, templates
        self.special_tokens_map = special_tokens
        self.added_tokens_decoder = native.get_added_tokens_decoder()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._native.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, **_: Any) -> str:
        return self._native.decode(ids, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        tokenize: bool,
        **variables: Any,
    ) -> str:
        """By transformers' own renderer."""
        from transformers.utils.chat_template_utils import render_jinja_template

        assert not tokenize
        wanted = "tool_use" if tools and "tool_use" in self.chat_template else "default"
        rendered: Any = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            tools=[dict(tool) for tool in tools] if tools else None,
            chat_template=self.chat_template[wanted],
            add_generation_prompt=add_generation_prompt,
            **{**self.special_tokens_map, **variables},
        )
        return rendered[0][0]


def text_vectors(tokenizer: Any, templates: ChatTemplates | None) -> TextVectors:
    """What `tokenizer`, one of transformers', makes of the fixed texts and chats.

    `templates` are its own as the runtime has them, whose rendering ends within bounds.

    Raises:
        LlmcError: E0417 if rendering a template takes too long.
    """
    from transformers import __version__

    return TextVectors(
        reference=f"transformers {__version__}, {type(tokenizer).__name__}",
        texts=list(_encoded(tokenizer, (*_TEXTS, *_added_tokens(tokenizer)))),
        chats=list(_chats(tokenizer, templates)) if templates is not None else [],
    )


def _encoded(tokenizer: Any, texts: Sequence[str]) -> Iterator[EncodedText]:
    for text in texts:
        try:
            marked = guarded(lambda text=text: tokenizer.encode(text, add_special_tokens=True))
        except LlmcError:  # words that a vocabulary without an unknown token lacks
            continue
        yield EncodedText(
            text=text,
            ids=tokenizer.encode(text, add_special_tokens=False),
            marked_ids=marked,
            decoded=_decoded(tokenizer, marked, True),
            decoded_special=_decoded(tokenizer, marked, False),
        )


def _decoded(tokenizer: Any, ids: Sequence[int], skipped: bool) -> str:
    return tokenizer.decode(ids, skip_special_tokens=skipped, clean_up_tokenization_spaces=False)


def _added_tokens(tokenizer: Any) -> Iterator[str]:
    """Texts with the added tokens: behind one another, between words, and with spaces around."""
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    half = _MOST_TOKENS // 2
    shown = added
    if len(added) > _MOST_TOKENS:
        named = f"{tokenizer.chat_template} {tokenizer.special_tokens_map}"
        needed = [token for token in added[half:-half] if token in named]
        shown = [*added[:half], *needed, *added[-half:]]
    if shown:
        yield "".join(shown)
        yield "a".join(shown) + "b"
        yield " " + " \n ".join(shown[: half // 2]) + " c"


def _chats(tokenizer: Any, templates: ChatTemplates) -> Iterator[RenderedChat]:
    def made(*asked: Any, **variables: Any) -> str | None:
        return _prompt(tokenizer, templates, *asked, **variables)

    knows_tools = _FUNCTION["name"] in (made([_ASK], _TOOLS, True) or "")
    for (messages, offered), begin in product(_CHATS, (False, True)):
        if offered and not knows_tools:
            continue
        messages, tools = _as_stored(messages), _as_stored(_TOOLS if offered else None)
        seen: set[str | None] = {None}
        for variables in _VARIABLES:
            prompt = made(messages, tools, begin, **variables)
            if prompt in seen or not _as_meant(prompt or "", messages):
                continue  # refused, or nothing new, or in a form that llmc doesn't use
            seen.add(prompt)
            yield RenderedChat(
                messages=messages,
                tools=tools,
                add_generation_prompt=begin,
                variables=variables,
                prompt=prompt or "",
            )


def _as_stored(value: Any) -> Any:
    """With keys in the order that they have in the entry: some templates write whole messages."""
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))


def _prompt(
    tokenizer: Any,
    templates: ChatTemplates,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    begin: bool,
    **variables: Any,
) -> str | None:
    """What transformers makes of a conversation; None if the template refuses it."""
    given = {"tools": tools, "add_generation_prompt": begin, **variables}
    try:
        templates.render(messages, **given)
    except LlmcError as error:  # of others transformers decides
        if isinstance(error.__cause__, BoundExceeded):
            raise LlmcError("LLMC-E0417", f"the chat template: {error.__cause__}") from error
    try:
        with _at_fixed_time():
            return tokenizer.apply_chat_template(messages, tokenize=False, **given)
    except Exception:  # a template is a program: it may fail in any way
        return None


def _as_meant(prompt: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what the user says last is there, and nothing as Python writes lists and objects."""
    content = [m["content"] for m in messages if m["role"] == "user"][-1]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    shown = all(text.strip() in prompt for text in texts)
    return shown and not any(text in prompt for text in _AS_WRITTEN)


@contextlib.contextmanager
def _at_fixed_time() -> Iterator[None]:
    """Templates may write the date."""
    from transformers.utils import chat_template_utils

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(FIXED_TIME)

    with mock.patch.object(chat_template_utils, "datetime", Fixed):
        yield
