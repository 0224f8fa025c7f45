"""GGUF files of architectures that keep state: what llama.cpp wants to be told of them.

In: a config and the tensors of a Hugging Face folder. Out: keys and tensors as llama.cpp's own
converter writes them (`convert_hf_to_gguf.py`), names by the gguf library's maps.
"""

from collections.abc import Callable

import gguf
import torch
from gguf.constants import MODEL_ARCH
from gguf_tensors import write_tensor

Tensors = dict[str, torch.Tensor]


def _lfm2(writer: gguf.GGUFWriter, config: dict, tensors: Tensors) -> None:
    kinds, kv_heads = config["layer_types"], config["num_key_value_heads"]
    _write_sizes(writer, config, config["intermediate_size"], config["norm_eps"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv([kv_heads if kind == "full_attention" else 0 for kind in kinds])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
    for name, tensor in sorted(tensors.items()):
        if name.endswith("conv.conv.weight"):
            tensor = tensor.squeeze(1).float()
        _write_named(writer, MODEL_ARCH.LFM2, len(kinds), name, tensor)


def _mamba2(writer: gguf.GGUFWriter, config: dict, tensors: Tensors) -> None:
    inner, groups = config["expand"] * config["hidden_size"], config["n_groups"]
    _write_sizes(writer, config, 0, config["layer_norm_epsilon"])
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(inner // config["head_dim"])
    writer.add_ssm_group_count(groups)
    layers = config["num_hidden_layers"]
    for name, tensor in sorted(tensors.items()):
        if name.endswith("conv1d.weight"):
            tensor = tensor.squeeze(1).float()
        elif name.endswith("mixer.norm.weight"):
            tensor = tensor.reshape(groups, inner // groups).float()
        elif name.endswith("A_log"):
            tensor = -tensor.float().exp()[:, None]
        elif name.endswith("mixer.D"):
            tensor = tensor.float()[:, None]
        name = name.replace("mixer.dt_bias", "mixer.dt_proj.bias")
        _write_named(writer, MODEL_ARCH.MAMBA2, layers, name, tensor)


def _write_sizes(writer: gguf.GGUFWriter, config: dict, mlp: int, epsilon: float) -> None:
    writer.add_context_length(config.get("max_position_embeddings", 2**20))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(mlp)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def _write_named(
    writer: gguf.GGUFWriter, arch: MODEL_ARCH, layers: int, name: str, tensor: torch.Tensor
) -> None:
    names = gguf.get_tensor_name_map(arch, layers)
    new = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if new is None:
        raise SystemExit(f"llama.cpp has no tensor for {name}")
    write_tensor(writer, new, tensor)


WRITERS: dict[str, Callable[[gguf.GGUFWriter, dict, Tensors], None]] = {
    "lfm2": _lfm2,
    "mamba2": _mamba2,
}
"""By the config's `model_type`, which is llama.cpp's name of the architecture, too."""
