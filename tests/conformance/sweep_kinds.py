"""Whether a model is a decoder with text in and text out, found by running it.

In: an eager model. Out: None, or why it is something else: it can't be run on token ids alone, its
answer isn't one row of logits a token, or tokens to come change what it says of earlier ones.
"""

from __future__ import annotations

from typing import Any

LENGTH = 24
SHARE = 1e-3
"""Of the logits' range: experts add up their rows in an order that other tokens may change."""


def why_no_decoder(model: Any) -> str | None:
    """Why `model` is no decoder with text in and text out; None if it is one."""
    import torch

    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocab, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1 - 3) % (vocab - 3) + 3
    try:
        with torch.no_grad():
            logits = [model(input_ids=x, use_cache=False).logits for x in (ids, other)]
    except Exception as error:
        return f"can't be run on token ids alone: {type(error).__name__}: {_line(error)}"
    if logits[0].ndim != 3 or logits[0].shape[:2] != (1, LENGTH):
        return f"its logits of {LENGTH} tokens are of shape {list(logits[0].shape)}"
    first, changed = (x[0, : LENGTH // 2] for x in logits)
    if (first - changed).abs().max() > SHARE * (first.max() - first.min()):
        return "it attends in both directions: the last token changes the logits of the first ones"
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
