"""The grammar of an answer that must be a tool call, with arguments that fit the tool's schema.

It is text in the Lark dialect of llguidance, so the sampler can only write what `calls` reads back.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .calls import ToolFormat


def forced_grammar(
    format: ToolFormat,
    tools: Sequence[Mapping[str, Any]],
    *,
    special_id: Callable[[str], int | None] = lambda text: None,
    many: bool = False,
) -> str:
    """A grammar of one call of one of `tools`, or of one or more if `many`.

    `special_id` gives the id of a text that is a special token (`Tokenizer.special_id`): such marks
    must be written as that token.
    """

    def quote(text: str) -> str:
        parts = re.split(f"({'|'.join(map(re.escape, specials))})", text) if specials else [text]
        return " ".join(
            f"<[{special_id(part)}]>" if part in specials else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )

    specials = [mark for mark in format.fixed if mark and special_id(mark) is not None]
    specials.sort(key=len, reverse=True)
    return format.grammar(tools, quote, many)


def keeps_special(format: ToolFormat, special_id: Callable[[str], int | None]) -> bool:
    """Whether special tokens must stay in the text for the format's marks to be seen."""
    return any(mark and special_id(mark) is not None for mark in format.fixed)
