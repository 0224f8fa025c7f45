"""A checkpoint with a model of its own, as repositories on the Hub have them.

A decoder whose blocks are none of transformers': norms without a weight, an MLP of squared ReLUs,
a learned share of each branch. It calls transformers' attention interface.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIGURATION = """
from transformers import PretrainedConfig


class ShareConfig(PretrainedConfig):
    model_type = "share"

    def __init__(self, vocab=100, width=64, depth=2, heads=4, shared=2, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab, width, depth
        self.num_attention_heads, self.num_key_value_heads = heads, shared
        self.vocab, self.width, self.depth = vocab, width, depth
        self.heads, self.shared = heads, shared
        super().__init__(**kwargs)
"""

MODELING = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from .configuration_share import ShareConfig


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


class Attention(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, index, True
        self.head_dim = config.width // config.heads
        self.num_key_value_groups = config.heads // config.shared
        self.scaling = self.head_dim**-0.5
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.shared * self.head_dim, bias=False)
        self.value = nn.Linear(config.width, config.shared * self.head_dim, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x, tables, mask, cache=None):
        shape = (*x.shape[:-1], -1, self.head_dim)
        parts = (self.query, self.key, self.value)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in parts)
        q, k = apply_rotary_pos_emb(q, k, *tables)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        kind = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
        found, _ = attend(self, q, k, v, mask, dropout=0.0, scaling=self.scaling)
        return self.out(found.reshape(*x.shape[:-1], -1).contiguous())


class Block(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.attention = Attention(config, index)
        self.up = nn.Linear(config.width, 2 * config.width, bias=False)
        self.down = nn.Linear(2 * config.width, config.width, bias=False)
        self.share = nn.Parameter(torch.ones(2))

    def forward(self, x, tables, mask, cache=None):
        x = x + self.share[0] * self.attention(norm(x), tables, mask, cache)
        return x + self.share[1] * self.down(torch.relu(self.up(norm(x))).pow(2))


class ShareForCausalLM(PreTrainedModel):
    config_class = ShareConfig
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None,
        use_cache=None, **kwargs,
    ):
        x = self.embed(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device)[None]
        size = self.config.width // self.config.heads
        powers = torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size
        angles = position_ids[..., None].float() * (1.0 / 10000.0**powers)
        angles = torch.cat((angles, angles), -1)
        mask = create_causal_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask,
            past_key_values=past_key_values, position_ids=position_ids,
        )
        for block in self.blocks:
            x = block(x, (angles.cos(), angles.sin()), mask, past_key_values)
        return CausalLMOutputWithPast(logits=self.head(norm(x)), past_key_values=past_key_values)
"""


def save_own_model(folder: Path, ran: Path, **config: object) -> Path:
    """Write the checkpoint into `folder`; whoever runs code of it appends to the file `ran`."""
    folder.mkdir()
    telling = "with open({!r}, 'a') as file:\n    file.write(__name__)\n"
    for name, code in (("configuration", CONFIGURATION), ("modeling", MODELING)):
        (folder / f"{name}_share.py").write_text(telling.format(str(ran)) + code)
    fields = {
        "model_type": "share",
        "architectures": ["ShareForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_share.ShareConfig",
            "AutoModelForCausalLM": "modeling_share.ShareForCausalLM",
        },
        "max_position_embeddings": 128, "vocab": 100, "width": 64, "depth": 2, "heads": 4,
        "shared": 2, "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields | config))
    save_file(_weights(), folder / "model.safetensors", {"format": "pt"})
    return folder


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    found = {"embed.weight": random(100, 64, scale=1.0), "head.weight": random(100, 64)}
    for layer in range(2):
        at = f"blocks.{layer}"
        found |= {
            f"{at}.attention.query.weight": random(64, 64),
            f"{at}.attention.key.weight": random(32, 64),
            f"{at}.attention.value.weight": random(32, 64),
            f"{at}.attention.out.weight": random(64, 64),
            f"{at}.up.weight": random(128, 64),
            f"{at}.down.weight": random(64, 128, scale=0.05),
            f"{at}.share": torch.tensor([0.7 - 0.2 * layer, 1.3]),
        }
    return found
