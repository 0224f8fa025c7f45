"""The text that activations are measured on, for targets whose runtimes want fixed scales.

It is the text of the quality gate: prose and code, the same for every model, so that two compiles
of a model give the same program.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from .frontend.model_source import ModelSource
from .quality import TEXT

MOST = 512


def sample_ids(source: ModelSource) -> tuple[int, ...]:
    """Token ids of the text; without a tokenizer, fixed pseudo-random ones."""
    if source.text.tokenizer is None:
        vocab = source.config.get_text_config().vocab_size
        return tuple(np.random.default_rng(2).integers(0, vocab, 128).tolist())
    tokenizer = Tokenizer.from_str(source.text.tokenizer.decode())
    return tuple(tokenizer.encode(TEXT).ids[:MOST])
