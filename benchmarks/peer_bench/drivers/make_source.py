"""Makes the weights that all peers start from; runs in llmc's environment (the `compile` extra).

make_source.py dequantize FILE.gguf FOLDER    f32 Hugging Face folder of a GGUF file
make_source.py random SHAPE LENDER FOLDER     bf16 folder of a shape or config (JSON), random
make_source.py gguf FOLDER FILE.gguf          GGUF file of such a folder, for llama.cpp
"""

import json
import sys
from pathlib import Path

import gguf
import gguf_hybrids
import torch
from gguf_tensors import write_tensor
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
)

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def dequantize(source: str, folder: str) -> None:
    """Write the values that the file's blocks stand for, as f32."""
    path = Path(source)
    options = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    plain = type(model)(_plain(model.config))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config without a word of how the file was quantized."""
    fields = config.to_dict()
    fields.pop("quantization_config", None)
    return type(config).from_dict(fields)


def random_weights(shape_json: str, lender: str, folder: str) -> None:
    """Write a model of a shape (`cases.Model`) or a config, initialised as `transformers` does,
    seed 0.

    The tokenizer is that of the folder `lender`.
    """
    shape = json.loads(shape_json)
    config = AutoConfig.for_model(**shape) if "model_type" in shape else _llama(shape)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(lender).save_pretrained(folder)


def _llama(shape: dict[str, int]) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        vocab_size=shape["vocab"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def write_gguf(folder: str, target: str) -> None:
    """Write the tensors in their own precision, without a tokenizer: the driver passes ids."""
    config = json.loads((Path(folder) / "config.json").read_text())
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(path)
    if not config["tie_word_embeddings"]:
        raise SystemExit("only models with tied embeddings are written")
    writer = gguf.GGUFWriter(target, config["model_type"])
    if config["model_type"] in gguf_hybrids.WRITERS:
        gguf_hybrids.WRITERS[config["model_type"]](writer, config, tensors)
    else:
        _write_llama(writer, config, tensors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_llama(writer: gguf.GGUFWriter, config: dict, tensors: dict[str, torch.Tensor]) -> None:
    _write_config(writer, config)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for name, tensor in sorted(tensors.items()):
        if name.endswith("q_proj.weight"):
            tensor = _interleave(tensor, heads)
        elif name.endswith("k_proj.weight"):
            tensor = _interleave(tensor, kv_heads)
        write_tensor(writer, gguf_name(name), tensor)


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _write_config(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def _interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from the order of rotated halves to llama.cpp's, rotated neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    verbs = {"dequantize": dequantize, "random": random_weights, "gguf": write_gguf}
    verbs[sys.argv[1]](*sys.argv[2:])
