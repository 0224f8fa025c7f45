"""What is measured: shapes of models, schemes, and the steps that are timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTEXT = 1024
"""Tokens that decoding sequences have in the cache."""
MAX_CONTEXT = 4096
MOST_SEQUENCES = 64
LOGITS_ROWS = 256
SCHEMES = ("bf16", "int8", "int4", "fp8")
"""Those of them that the target has are built."""


@dataclass(frozen=True)
class Shape:
    """A model by its sizes, as configurations of Llama name them; no weights."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    tied: bool
    rope_theta: float
    rope_factor: float = 0.0

    def configuration(self) -> dict[str, Any]:
        """The arguments of `transformers.LlamaConfig`."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_factor:
            rope |= {"rope_type": "llama3", "factor": self.rope_factor}
            rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
            rope |= {"original_max_position_embeddings": 8192}
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 131072 if self.rope_factor else 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": rope,
        }


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("135m", 576, 1536, 30, 9, 3, 64, 49152, True, 1e5),
        Shape("1b", 2048, 8192, 16, 32, 8, 64, 128256, True, 5e5, 32.0),
        Shape("8b", 4096, 14336, 32, 32, 8, 128, 128256, False, 5e5, 8.0),
    )
}
"""SmolLM2-135M, Llama-3.2-1B, Llama-3.1-8B, by their published configurations."""


@dataclass(frozen=True)
class Case:
    """A step that is timed: so many sequences with so many query tokens each, which have `context`
    tokens by its end. A prefill wants one row of logits, other steps one for each token."""

    name: str
    sequences: int
    query: int
    context: int

    @property
    def tokens(self) -> int:
        return self.sequences * self.query

    @property
    def prefill(self) -> bool:
        return self.query == self.context

    @property
    def rows(self) -> int:
        return self.sequences if self.prefill else self.tokens


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("decode-1", 1, 1, CONTEXT),
        Case("decode-8", 8, 1, CONTEXT),
        Case("decode-64", 64, 1, CONTEXT),
        Case("verify-4", 1, 4, CONTEXT),
        Case("prefill-512", 1, 512, 512),
        Case("prefill-4096", 1, 4096, 4096),
    )
}
"""`verify-4`: one sequence with four query tokens, as a check of three drafts has."""
HOST_CASE = "decode-64"
"""The step whose time on the host is taken."""
PROFILED = ("decode-1", "decode-64", "prefill-4096")
