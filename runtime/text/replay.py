"""Does this machine make the ids and the prompts of texts that transformers made of them?

In: the vectors of an artifact, and its tokenizer or its templates. Out: nothing where all is equal,
else one line about the first that isn't. Loading replays what costs little, `llmc verify` all.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ...artifact.text_vectors import FIXED_TIME, EncodedText, RenderedChat
from ...base.errors import LlmcError
from .output import OutputText
from .tokenizer import Encode, Tokenizer

if TYPE_CHECKING:
    from .templates import ChatTemplates  # which brings Jinja


def wrong_ids(encode: Encode, texts: Sequence[EncodedText]) -> str | None:
    """The first text whose ids are others than recorded."""
    for one in texts:
        for marked, expected in ((False, one.ids), (True, one.marked_ids)):
            found = list(encode(one.text, marked))
            if found != expected:
                return f"{_short(one.text)} becomes {_short(found)}, not {_short(expected)}"
    return None


def wrong_texts(tokenizer: Tokenizer, texts: Sequence[EncodedText]) -> str | None:
    """The first ids whose text is another than recorded, token by token as it streams or whole."""
    for one in texts:
        for special, expected in ((False, one.decoded), (True, one.decoded_special)):
            stream = OutputText(tokenizer, keep_special=special)
            streamed = "".join(map(stream.push, one.marked_ids)) + stream.flush()
            for found in (streamed, tokenizer.decode(one.marked_ids, keep_special=special)):
                if found != expected:
                    what = f"the text of the ids of {_short(one.text)}"
                    return f"{what} is {_short(found)}, not {_short(expected)}"
    return None


def wrong_prompts(templates: "ChatTemplates", chats: Sequence[RenderedChat]) -> str | None:
    """The first conversation whose prompt is another than recorded."""
    fixed = {"strftime_now": datetime.fromisoformat(FIXED_TIME).strftime}
    for one in chats:
        try:
            prompt = templates.render(
                one.messages,
                tools=one.tools,
                add_generation_prompt=one.add_generation_prompt,
                **{**fixed, **one.variables},
            )
        except LlmcError as error:
            return f"a prompt isn't made: {error.message}"
        if prompt != one.prompt:
            pairs = enumerate(zip(prompt, one.prompt, strict=False))
            begin = max(0, next((i for i, (a, b) in pairs if a != b), 20) - 20)
            return f"a prompt has {_short(prompt[begin:])}, not {_short(one.prompt[begin:])}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
