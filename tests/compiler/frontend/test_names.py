"""Checkpoint → parameters: the recipes give what `from_pretrained` would load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.weights.recipes import CheckpointTensor, leaves
from llmc.weights.values import RecipeValues
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILIES = {
    "llama": ("LlamaConfig", SIZES),
    "llama tied": ("LlamaConfig", SIZES | {"tie_word_embeddings": True}),
    "gemma3": ("Gemma3TextConfig", SIZES | {"head_dim": 8}),
    "phi3": ("Phi3Config", SIZES),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}),
    "opt": (
        "OPTConfig",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "vocab_size": 64, "word_embed_proj_dim": 32},
    ),
    "qwen3 moe": ("Qwen3MoeConfig", SIZES | EXPERTS | {"head_dim": 8}),
    "mixtral": ("MixtralConfig", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip


def save(path: Path, family: str, **save_options: object) -> PreTrainedModel:
    kind, fields = FAMILIES[family]
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    for parameter in model.parameters():  # norms are ones and biases zeros otherwise
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path, **save_options)
    return model


def meta_model(source: ModelSource) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(source.config)


def edit(path: Path, change) -> None:
    """Rewrite the tensors of a saved model."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def bound_values(path: Path) -> dict[str, np.ndarray]:
    source = open_source(str(path))
    values = RecipeValues(source.reader)
    return {n: values.value(r) for n, r in bind(meta_model(source), source).recipes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_equal_the_loaded_model(tmp_path: Path, family: str) -> None:
    original = save(tmp_path, family)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = bound_values(tmp_path)
    expected = loaded.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor.numpy()), name
        assert np.array_equal(found[name], original.state_dict()[name].detach().numpy()), name
        assert np.abs(found[name]).max() > 0


def test_experts_are_stored_one_by_one_and_stacked(tmp_path: Path) -> None:
    """The test above would prove nothing if the checkpoint were already stacked."""
    save(tmp_path, "qwen3 moe")
    source = open_source(str(tmp_path))
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in source.tensors
    recipe = bind(meta_model(source), source).recipes["model.layers.0.mlp.experts.gate_up_proj"]
    assert recipe.shape == (4, 48, 32)
    assert len(list(leaves(recipe))) == 8


def test_sharded_checkpoints(tmp_path: Path) -> None:
    model = save(tmp_path, "llama", max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = bound_values(tmp_path)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(found[name], tensor.detach().numpy())


def test_tied_names_share_a_recipe(tmp_path: Path) -> None:
    save(tmp_path, "llama tied")
    source = open_source(str(tmp_path))
    assert "lm_head.weight" not in source.tensors
    recipes = bind(meta_model(source), source).recipes
    assert recipes["lm_head.weight"] is recipes["model.embed_tokens.weight"]


def test_a_head_stored_beside_what_it_is_tied_to(tmp_path: Path) -> None:
    save(tmp_path, "llama tied")
    embedding = "model.embed_tokens.weight"
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    source = open_source(str(tmp_path))
    recipes = bind(meta_model(source), source).recipes
    assert recipes["lm_head.weight"] == recipes[embedding]
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding] * 2}))
    source = open_source(str(tmp_path))
    with pytest.raises(LlmcError, match="different values") as caught:
        bind(meta_model(source), source)
    assert caught.value.id == "LLMC-E0406"


def test_a_checkpoint_of_the_base_model_gets_its_prefix(tmp_path: Path) -> None:
    model = save(tmp_path, "llama tied")

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(tmp_path, strip)
    found = bound_values(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    assert np.array_equal(found[name], model.state_dict()[name].detach().numpy())


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN = {
    "missing": (lambda t: t.pop(UP), "LLMC-E0406", UP),
    "wrong shape": (lambda t: t.update({UP: t[UP][:40].clone()}), "LLMC-E0406", r"\[40, 32\]"),
    "wrong dtype": (lambda t: t.update({UP: t[UP].to(torch.int32)}), "LLMC-E0407", UP),
    "left over": (lambda t: t.update({"model.extra": torch.ones(3)}), "LLMC-E0410", "model.extra"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_are_refused(tmp_path: Path, case: str) -> None:
    change, id, named = BROKEN[case]
    save(tmp_path, "llama")
    edit(tmp_path, change)
    source = open_source(str(tmp_path))
    with pytest.raises(LlmcError, match=named) as caught:
        bind(meta_model(source), source)
    assert caught.value.id == id


def test_a_missing_expert_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "mixtral")
    name = next(n for n in load_file(tmp_path / "model.safetensors") if ".experts.2.w1" in n)
    edit(tmp_path, lambda t: t.pop(name))
    source = open_source(str(tmp_path))
    with pytest.raises(LlmcError, match="gate_up_proj") as caught:
        bind(meta_model(source), source)
    assert caught.value.id == "LLMC-E0406"


def test_old_rotary_buffers_are_ignored_and_said(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    old = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(tmp_path, lambda t: t.update({old: torch.ones(4)}))
    source = open_source(str(tmp_path))
    assert bind(meta_model(source), source).ignored == (old,)


def test_bf16_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    edit(tmp_path, lambda t: t.update({n: v.bfloat16() for n, v in t.items()}))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    source = open_source(str(tmp_path))
    assert isinstance(tensor := source.tensors[UP], CheckpointTensor)
    assert tensor.stored == "bf16"
    assert json.loads(source.config_bytes)["model_type"] == "llama"
    assert np.array_equal(bound_values(tmp_path)[UP], loaded[UP].numpy())
