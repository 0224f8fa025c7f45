"""A Llama in plain torch with a static cache: the peer where `transformers` is missing.

Only decode steps: one query token of each sequence, all at the same position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """Attention over a static cache, and a gated feed-forward."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config["head_dim"]
        wide = (self.heads + 2 * self.kv_heads) * self.size
        self.qkv = nn.Linear(hidden, wide, bias=False)
        self.out = nn.Linear(self.heads * self.size, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)
        self.before = nn.RMSNorm(hidden, eps=config["rms_norm_eps"])
        self.after = nn.RMSNorm(hidden, eps=config["rms_norm_eps"])

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], at: Tensor, cache: Tensor) -> Tensor:
        """x [S, hidden]; turn: cosine, sine [size]; at: i64 [1]; cache [2, S, kv, room, size]."""
        parts = self.qkv(self.before(x)).view(len(x), -1, self.size)
        q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = (part * turn[0] + _turned(part) * turn[1] for part in (q, k))
        cache[0].index_copy_(2, at, k[:, :, None])
        cache[1].index_copy_(2, at, v[:, :, None])
        seen = torch.arange(cache.shape[3], device=x.device) <= at
        found = functional.scaled_dot_product_attention(
            q[:, :, None], cache[0], cache[1], attn_mask=seen[None, None, None], enable_gqa=True
        )
        x = x + self.out(found.reshape(len(x), -1))
        gate, up = self.gate_up(self.after(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class PlainLlama(nn.Module):
    """The whole model; `config` as for `transformers.LlamaConfig`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, vocab = config["hidden_size"], config["vocab_size"]
        self.embedding = nn.Embedding(vocab, hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(hidden, eps=config["rms_norm_eps"])
        self.head = nn.Linear(hidden, vocab, bias=False)
        if config["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        size, theta = config["head_dim"], config["rope_parameters"]["rope_theta"]
        frequencies = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
        self.frequencies = nn.Buffer(frequencies)
        self.config = config

    def new_cache(self, sequences: int, room: int) -> list[Tensor]:
        """Of each layer."""
        like = self.head.weight
        kv, size = self.config["num_key_value_heads"], self.config["head_dim"]
        return [like.new_zeros(2, sequences, kv, room, size) for _ in self.layers]

    def forward(self, ids: Tensor, at: Tensor, caches: list[Tensor]) -> Tensor:
        """The next token of each sequence: ids i64 [S, 1] → i64 [S, 1]."""
        x = self.embedding(ids[:, 0])
        angles = torch.cat((self.frequencies, self.frequencies)) * at
        turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, turn, at, cache)
        return self.head(self.norm(x)).argmax(-1, keepdim=True)
