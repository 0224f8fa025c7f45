"""Adapters: what is compiled is what `peft` merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_models as gm
import numpy as np
import pytest
import torch
import transformers
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.trace import build_on_meta
from llmc.models.auto import whole_class
from llmc.models.random_weights import randomize
from llmc.models.twin import twin
from llmc.weights.values import RecipeValues
from lora_adapters import base_model, merged, save_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

pytest.importorskip("peft")

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip
LLAMA = ("LlamaConfig", SIZES)
GPT2 = ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64})
BIASED = ("LlamaConfig", SIZES | {"attention_bias": True})
QWEN_MOE = (
    "Qwen3MoeConfig",
    SIZES
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
)  # fmt: skip
GPT_OSS = (
    "GptOssConfig",
    SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
)  # fmt: skip
CLOSE = 2e-6
"""Of the largest weight: peft sums in float32, llmc rounds once."""


def save_base(path: Path, kind: tuple[str, dict[str, Any]]) -> Path:
    name, fields = kind
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    return path


def values(source: Any) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    read = RecipeValues(source.reader)
    return {name: read.value(recipe) for name, recipe in bind(model, source).recipes.items()}


def check(found: dict[str, np.ndarray], expected: Any, base: Path) -> None:
    state = expected.state_dict()
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert set(found) == set(state)
    changed = [n for n in state if n not in untouched or not torch.equal(state[n], untouched[n])]
    assert changed
    for name, tensor in state.items():
        wanted = tensor.numpy()
        assert np.abs(found[name] - wanted).max() <= CLOSE * np.abs(wanted).max(), name


CASES = {
    "plain": (LLAMA, {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 7}),
    "all linear": (LLAMA, {"target_modules": "all-linear", "r": 3}),
    "a pattern": (LLAMA, {"target_modules": r".*layers\.[01]\..*_proj", "r": 2}),
    "some layers": (LLAMA, {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}),
    "root of the rank": (LLAMA, {"target_modules": ["o_proj"], "r": 4, "use_rslora": True}),
    "ranks": (
        LLAMA,
        {
            "target_modules": ["q_proj", "down_proj"], "r": 4,
            "rank_pattern": {"q_proj": 2, r"^model.layers.1.mlp.down_proj": 6},
            "alpha_pattern": {"layers.2.self_attn.q_proj": 31},
        },
    ),
    "dora": (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 4}),
    "conv1d": (GPT2, {"target_modules": ["c_attn", "c_proj"], "r": 4}),
    "conv1d dora": (GPT2, {"target_modules": ["c_attn", "c_proj"], "r": 4, "use_dora": True}),
    "head and embedding saved": (
        LLAMA,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "norms saved": (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "embedding": (LLAMA, {"target_modules": ["embed_tokens", "lm_head", "k_proj"], "r": 4}),
    "embedding dora": (LLAMA, {"target_modules": ["embed_tokens"], "r": 4, "use_dora": True}),
    "trained tokens": (
        LLAMA,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 60, 7]}},
    ),
    "biases": (BIASED, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of lora": (BIASED, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "experts": (
        QWEN_MOE,
        {
            "target_modules": ["q_proj"], "r": 2, "lora_alpha": 5,
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "one matrix of experts": (
        QWEN_MOE,
        {"target_modules": [], "r": 2, "target_parameters": ["mlp.experts.down_proj"]},
    ),
    "a router": (QWEN_MOE, {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}),
    "experts the other way round": (
        GPT_OSS,
        {
            "target_modules": ["q_proj"], "r": 2,
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_are_those_of_peft(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    base = save_base(tmp_path / "base", kind)
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    source = open_source(str(base), lora=[str(adapter)])
    check(values(source), merged(base, [adapter]), base)


def changed(folder: Path, **fields: Any) -> Path:
    """The adapter with other settings."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def retensored(folder: Path, change: Any) -> Path:
    """The adapter with the tensors that `change` makes of its own."""
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("lora") / "base", LLAMA)


def test_several_adapters_one_after_another(tmp_path: Path, base: Path) -> None:
    names = ["q_proj", "down_proj"]
    one = save_adapter(base, tmp_path / "1", 1, target_modules=names, r=4, use_dora=True)
    two = save_adapter(base, tmp_path / "2", 2, target_modules=names, r=2, lora_alpha=9)
    three = save_adapter(base, tmp_path / "3", 3, target_modules=names, r=4, use_dora=True)
    source = open_source(str(base), lora=[str(one), str(two), str(three)])
    check(values(source), merged(base, [one, two, three]), base)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("name", ["", ".default", ".mine"])
def test_names_with_and_without_prefix_and_adapter(
    tmp_path: Path, base: Path, prefix: str, name: str
) -> None:
    adapter = save_adapter(
        base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    expected = merged(base, [adapter])

    def renamed(key: str) -> str:
        key = prefix + key.removeprefix("base_model.model.")
        if name and "lora_" in key:
            return key.replace(".weight", f"{name}.weight")
        return key.replace("lm_head.", f"lm_head.modules_to_save{name}.") if name else key

    retensored(adapter, lambda tensors: {renamed(k): v for k, v in tensors.items()})
    check(values(open_source(str(base), lora=[str(adapter)])), expected, base)


def test_experts_by_their_names_in_the_checkpoint(tmp_path: Path) -> None:
    """As transformers 4 had them, each a module of its own: what is merged is what it loads."""
    base = save_base(tmp_path / "base", QWEN_MOE)
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["up_proj"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    stored = load_file(base / "model.safetensors")
    tensors, names = {}, [f"model.layers.1.mlp.experts.{i}.up_proj" for i in (0, 3)]
    for name in names:
        b, a = torch.randn(24, 2), torch.randn(2, 32)
        tensors |= {f"base_model.model.{name}.lora_A.weight": a}
        tensors |= {f"base_model.model.{name}.lora_B.weight": b}
        stored[f"{name}.weight"] = stored[f"{name}.weight"] + 3 * (b @ a)
    save_file(tensors, tmp_path / "adapter/adapter_model.safetensors")
    found = values(open_source(str(base), lora=[str(tmp_path / "adapter")]))
    other = save_base(tmp_path / "other", QWEN_MOE)
    save_file(stored, other / "model.safetensors", metadata={"format": "pt"})
    check(found, AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32), base)


def test_on_top_of_a_gguf_file(tmp_path: Path) -> None:
    """By the model's own names, though rows of queries and keys lie in another order there."""
    model = gm.llama_model()
    model.save_pretrained(tmp_path / "base")
    gm.write_gguf(tmp_path / "m.gguf", model, "llama")
    adapter = save_adapter(tmp_path / "base", tmp_path / "a", target_modules=["q_proj", "up_proj"])
    source = open_source(str(tmp_path / "m.gguf"), lora=[str(adapter)])
    check(values(source), merged(tmp_path / "base", [adapter]), tmp_path / "base")


def test_the_text_part_of_a_multimodal_model(tmp_path: Path) -> None:
    """Named as the whole model names it; what it changes of the other parts is left out."""
    small = twin(AutoConfig.for_model("gemma3"))
    assert small is not None
    auto: Any = whole_class(small.config)
    whole = auto.from_config(small.config, dtype=torch.float32)
    randomize(whole, 5)
    whole.save_pretrained(tmp_path / "base")
    adapter = save_adapter(
        tmp_path / "base", tmp_path / "a", auto=auto, target_modules=["q_proj", "fc1"], r=2
    )
    expected = merged(tmp_path / "base", [adapter], auto)
    source = open_source(str(tmp_path / "base"), lora=[str(adapter)])
    text = build_on_meta(source.config)
    binding = bind(text, source)
    body = next(m for m in expected.modules() if type(m) is type(text.base_model))
    read = RecipeValues(source.reader)
    for name, tensor in body.state_dict().items():
        found = read.value(binding.recipes[f"model.{name}"])
        assert np.abs(found - tensor.numpy()).max() <= CLOSE * float(tensor.abs().max()), name
    assert any(name.startswith("adapter0:") and "fc1" in name for name in binding.left_out)


TIED = ("LlamaConfig", SIZES | {"tie_word_embeddings": True})


def test_a_tied_head_that_is_adapted_is_tied_no_longer(tmp_path: Path) -> None:
    """The embedding stays as it was in training: peft says so before it merges."""
    from peft import PeftModel

    base = save_base(tmp_path / "base", TIED)
    adapter = save_adapter(base, tmp_path / "a", target_modules=["lm_head", "q_proj"], r=3)
    source = open_source(str(base), lora=[str(adapter)])
    assert not source.config.tie_word_embeddings
    found = values(source)
    model = AutoModelForCausalLM.from_config(source.config, attn_implementation="eager").eval()
    model.load_state_dict({name: torch.from_numpy(v) for name, v in found.items()})
    ids = torch.tensor([[5, 9, 60, 33, 2, 7]])
    adapted: Any = PeftModel.from_pretrained(base_model(base), str(adapter))
    with torch.no_grad():
        expected, got = adapted(input_ids=ids).logits, model(input_ids=ids).logits
        plain = base_model(base)(input_ids=ids).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()


def test_trained_tokens_of_a_tied_model_are_of_both_ends(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", TIED)
    settings = {"target_modules": ["q_proj"], "trainable_token_indices": [3, 60]}
    adapter = save_adapter(base, tmp_path / "a", **settings)
    source = open_source(str(base), lora=[str(adapter)])
    assert source.config.tie_word_embeddings
    check(values(source), merged(base, [adapter]), base)


@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_vocabulary(tmp_path: Path, tied: bool) -> None:
    """Saved with both ends, as peft does after `resize_token_embeddings`."""
    from peft import PeftModel

    base = save_base(tmp_path / "base", ("LlamaConfig", SIZES | {"tie_word_embeddings": tied}))
    grown = base_model(base)
    grown.resize_token_embeddings(70)
    adapter = save_adapter(
        base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["norm"]
    )
    ends = {"model.embed_tokens": grown.model.embed_tokens, "lm_head": grown.lm_head}
    more = {f"base_model.model.{k}.weight": m.weight.detach().clone() for k, m in ends.items()}
    retensored(adapter, lambda tensors: tensors | more)
    source = open_source(str(base), lora=[str(adapter)])
    assert source.config.vocab_size == 70
    assert source.config.tie_word_embeddings is tied
    expected: Any = PeftModel.from_pretrained(grown, str(adapter)).merge_and_unload()
    found, state = values(source), expected.state_dict()
    assert found["lm_head.weight"].shape == (70, 32)
    for name, tensor in state.items():
        wanted = tensor.numpy()
        assert np.abs(found[name] - wanted).max() <= CLOSE * np.abs(wanted).max(), name
