"""Token ids of the texts that requests bring."""

import asyncio

from ..served_models import Served

_SHORT = 2000
"""Characters up to which a text is tokenized at once; longer ones in another thread."""


async def encode(served: Served, text: str, *, special: bool) -> list[int]:
    """Token ids of a text; a long one doesn't keep others waiting."""
    tokenizer = served.model.tokenizer
    if len(text) <= _SHORT:
        return tokenizer.encode(text, add_special_tokens=special)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=special)
