"""What `transformers` eager says: the reference that compiled models are compared with.

In: a CPU model with eager attention and token ids. Out: float32 logits, or a greedy continuation.
Every sequence runs alone, from its first token, with no cache: nothing is shared with the
arrangement of steps, chunks and batches that is being checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .conformance import Text, text_lengths

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_LENGTH_DEPENDENT = ("dynamic", "longrope")


def eager_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> np.ndarray:
    """Return the logits after each token: float32 `[len(token_ids), vocab]`.

    Of the call that a user makes: positions are the model's own affair.
    """
    import torch

    ids = torch.tensor([list(token_ids)])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits[0].float().numpy()


def eager_greedy(model: PreTrainedModel, token_ids: Sequence[int], tokens: int) -> list[int]:
    """Return the `tokens` most likely next tokens, each from a full run over what precedes it."""
    ids = list(token_ids)
    for _ in range(tokens):
        ids.append(int(eager_logits(model, ids)[-1].argmax()))
    return ids[len(token_ids) :]


def reference_texts(model: PreTrainedModel, max_context: int, seed: int = 0) -> list[Text]:
    """Return four random texts for the conformance schedule, with eager's logits.

    Ids are drawn from the whole vocabulary but for padding, which is no text: some models give it
    no position. The model must have its rotary tables fixed.
    """
    random = np.random.default_rng(seed)
    config = model.config.get_text_config()
    texts = [random.integers(0, config.vocab_size, length) for length in text_lengths(max_context)]
    for text in texts:
        text[text == getattr(config, "pad_token_id", None)] += 1
        text[text == config.vocab_size] = 0
    return [Text(ids, eager_logits(model, ids.tolist())) for ids in texts]


def fix_rope(model: PreTrainedModel, max_context: int) -> PreTrainedModel:
    """Fix rotary tables that depend on the sequence's length as for `max_context`; return `model`.

    `dynamic` and `longrope` recompute their frequencies in every forward call. A cache holds keys
    that were rotated earlier, so a compiled program needs one table: that of the longest sequence
    it can meet. Other rope types are left alone. Changes the model in place.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str) and kinds in _LENGTH_DEPENDENT:
            frequencies, scaling = ROPE_INIT_FUNCTIONS[kinds](
                module.config, module.inv_freq.device, seq_len=max_context
            )
            _set_table(module, "", frequencies, scaling)
            setattr(module, "rope_type", "default")  # noqa: B010
        elif isinstance(kinds, dict):
            for layer, kind in kinds.items():
                if kind in _LENGTH_DEPENDENT:
                    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](
                        module.config, None, seq_len=max_context, layer_type=layer
                    )
                    _set_table(module, f"{layer}_", frequencies, scaling)
            setattr(module, "rope_type", dict.fromkeys(kinds, "default"))  # noqa: B010
    return model


def _set_table(
    module: torch.nn.Module, prefix: str, frequencies: torch.Tensor, scaling: float
) -> None:
    getattr(module, f"{prefix}inv_freq").copy_(frequencies)
    setattr(module, f"{prefix}attention_scaling", scaling)
