"""The zoo itself: every model builds, nothing in it is idle, and a saved one reads back equal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from llmc.models.eager import eager_greedy, eager_logits, fix_rope
from tiny_model import VOCAB, ZooModel, byte_tokenizer
from zoo import EXTENDED, ZOO, find

ALL = ZOO + EXTENDED
NOT_DECLARED = {"qwen3-moe": {"head_dim"}}
"""Arguments that the family's code reads although its configuration class does not declare them."""

NEVER_FELT = {
    # A key bias that is not rotated adds the same to all scores of a query: softmax cancels it.
    "k_proj.bias",
    "key.bias",
    # Doge without experts keeps the parameters of its dynamic mask, which counts only where the
    # context is longer than `keep_window_size`.
    "dt_proj.weight",
    ".A",
}


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, length).tolist()


def test_names_and_features_are_distinct() -> None:
    assert len({model.name for model in ALL}) == len(ALL)
    assert all(model.features for model in ALL)
    assert find("gemma2").config_class == "Gemma2Config"
    with pytest.raises(KeyError, match="not in the zoo"):
        find("no-such-model")


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_configuration_declares_every_argument(model: ZooModel) -> None:
    """A misspelt argument would be swallowed, and the feature it stands for would not be there."""
    reference = type(model.configuration())()
    declared = set(reference.to_dict()) | set(reference.attribute_map) | {"rope_parameters"}
    assert set(model.config) - declared == NOT_DECLARED.get(model.name, set())


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.name)
def test_every_parameter_is_felt(model: ZooModel) -> None:
    """Each tensor moves the logits, so a compiler that loses one is found out."""
    built = fix_rope(model.build(), model.max_context).requires_grad_(True)
    ids = torch.tensor([prompt(model.max_context)])
    logits = built(input_ids=ids, use_cache=False).logits[0]
    torch.manual_seed(0)
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in built.named_parameters():
        if name.endswith(tuple(NEVER_FELT)):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-3, name


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_weights_are_not_degenerate(model: ZooModel) -> None:
    built = model.build()
    for name, tensor in built.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1:
            assert tensor.float().std() > 1e-3, name
    logits = eager_logits(built, prompt(20))
    assert logits.shape == (20, VOCAB)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0.1


def test_build_is_deterministic_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = find("qwen3").build(), find("qwen3").build()
    assert torch.equal(torch.rand(3), expected)
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_half_precision_rounds_the_same_weights() -> None:
    full, half = find("llama").build(), find("llama").build(torch.bfloat16)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(full.state_dict()[name].bfloat16(), half.state_dict()[name])


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-moe", "phi3"])
def test_saved_model_reads_back_equal(name: str, tmp_path: Path) -> None:
    model = find(name)
    model.save(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", experts_implementation="eager"
    )
    ids = prompt(20)
    # The expert weights are stacked and unstacked on the way; the arithmetic stays the same.
    np.testing.assert_allclose(
        eager_logits(loaded, ids), eager_logits(model.build(), ids), rtol=0, atol=1e-5
    )


def test_saved_tokenizer(tmp_path: Path) -> None:
    find("llama").save(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Zoë, 12 <x>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert max(byte_tokenizer().encode(text).ids) < 256
    chat = [{"role": "user", "content": "hi"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>hi<|end|><|assistant|>"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|end|>"


def test_greedy_continues_with_the_most_likely_token() -> None:
    built = find("llama").build()
    ids = prompt(10)
    first, second = eager_greedy(built, ids, 2)
    assert first == eager_logits(built, ids)[-1].argmax()
    assert second == eager_logits(built, [*ids, first])[-1].argmax()


@pytest.mark.parametrize("name", ["llama-dynamic", "llama-longrope", "phi3"])
def test_fixed_rope_is_the_table_of_the_longest_context(name: str) -> None:
    """At full length nothing changes; a shorter text sees the long table instead of its own."""
    model = find(name)
    ids = prompt(model.max_context)
    native, fixed = model.build(), fix_rope(model.build(), model.max_context)
    # The dynamic type raises its base to a power in float32 where it is given a tensor's length.
    np.testing.assert_allclose(
        eager_logits(fixed, ids), eager_logits(native, ids), rtol=0, atol=1e-4
    )
    short = ids[:20]
    own, table = eager_logits(model.build(), short), eager_logits(fixed, short)
    assert np.abs(own - table).max() > 0.01
    # With one table, a longer text does not change what came before.
    np.testing.assert_allclose(table, eager_logits(fixed, ids)[:20], rtol=0, atol=1e-5)


def test_fixed_rope_leaves_other_types_alone() -> None:
    for name in ("llama", "llama-yarn", "gemma3"):
        ids = prompt(60)
        model = find(name)
        fixed = fix_rope(model.build(), model.max_context)
        assert np.array_equal(eager_logits(fixed, ids), eager_logits(model.build(), ids))
