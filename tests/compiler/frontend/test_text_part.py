"""Multimodal checkpoints: the text part is compiled, with the tensors that belong to it."""

import json
from pathlib import Path
from typing import Any

import llmc
import numpy as np
import pytest
import torch
import transformers
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.text_part import describe
from llmc.compiler.frontend.trace import build_on_meta
from llmc.models.auto import whole_class
from llmc.models.eager import eager_logits
from llmc.models.random_weights import randomize
from llmc.models.twin import twin
from llmc.weights.values import RecipeValues
from tiny_model import decoder
from transformers import AutoConfig

KINDS = ("mistral3", "llava", "gemma3", "llama4", "kimi_k25")
"""Text inside `model.language_model`, inside `language_model`, with and without a tied head."""


def save(kind: str, folder: Path) -> Any:
    small = twin(AutoConfig.for_model(kind))
    assert small is not None
    config = small.config
    auto: Any = whole_class(config)
    model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager")
    randomize(model, 5)
    model.eval().requires_grad_(False).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_model_gets_the_values_of_the_whole_one(kind: str, tmp_path: Path) -> None:
    """Every parameter, by the text model's names, as the module of the whole model has it."""
    whole = save(kind, tmp_path)
    source = open_source(str(tmp_path))
    text = build_on_meta(source.config)
    binding = bind(text, source)
    body = next(m for m in whole.modules() if type(m) is type(text.base_model))
    prefix = next(n for n, m in text.named_modules() if m is text.base_model)
    wanted = {f"{prefix}.{n}".removeprefix("."): t for n, t in body.state_dict().items()}
    wanted["lm_head.weight"] = whole.get_output_embeddings().weight
    assert set(wanted) == set(text.state_dict())
    values = RecipeValues(source.reader)
    for name, tensor in wanted.items():
        got = values.value(binding.recipes[name]).reshape(tensor.shape)
        assert np.array_equal(got, tensor.float().numpy()), name
    assert binding.left_out
    assert "left out" in describe(binding.left_out)


@pytest.mark.parametrize("kind", ["mistral3", "qwen2_5_vl"])
def test_a_compiled_text_part_answers_as_the_whole_model(kind: str, tmp_path: Path) -> None:
    """Given text alone; Qwen 2.5 VL's text is no model of its own, so its whole is traced."""
    model = save(kind, tmp_path / "checkpoint")
    report = llmc.compile(str(tmp_path / "checkpoint"), output=tmp_path / "m.llmc")
    assert any("left out" in note for note in report.notes)
    ids = np.random.default_rng(4).integers(0, 288, 40).tolist()
    expected = eager_logits(model, ids)
    with llmc.load(tmp_path / "m.llmc") as loaded:
        got = np.array(loaded.logits(ids))
    assert np.abs(got - expected).max() <= 1e-4 * np.ptp(expected)


def test_a_whole_model_with_another_head_is_refused(tmp_path: Path) -> None:
    """Its text class scales logits by 0.25 and the whole class doesn't: greedy text would agree,
    and probabilities would not."""
    save("cohere2_vision", tmp_path)
    source = open_source(str(tmp_path))
    with pytest.raises(LlmcError, match="scales or caps") as caught:
        bind(build_on_meta(source.config), source)
    assert caught.value.id == "LLMC-E0415"


def test_a_config_that_is_silent_about_ties_is_tied_as_the_checkpoint_is(tmp_path: Path) -> None:
    """Mistral 3's class ties by default, and its checkpoints hold a head of their own."""
    small = twin(AutoConfig.for_model("mistral3", tie_word_embeddings=False))
    assert small is not None
    auto: Any = whole_class(small.config)
    model = auto.from_config(small.config, dtype=torch.float32)
    randomize(model, 5)
    model.eval().requires_grad_(False).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    source = open_source(str(tmp_path))
    recipes = bind(build_on_meta(source.config), source).recipes
    assert recipes["lm_head.weight"] != recipes["model.embed_tokens.weight"]


def test_a_text_model_alone_is_no_part(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder())).save_pretrained(tmp_path)
    source = open_source(str(tmp_path))
    assert isinstance(source.config, transformers.LlamaConfig)
    assert not bind(build_on_meta(source.config), source).left_out


def test_a_whole_model_without_a_text_part_is_named(tmp_path: Path) -> None:
    """Its tensors belong to no parameter of the causal class that transformers has for it."""
    save("mllama", tmp_path)
    source = open_source(str(tmp_path))
    with pytest.raises(LlmcError, match="is a MllamaForConditionalGeneration") as caught:
        bind(build_on_meta(source.config), source)
    assert caught.value.id == "LLMC-E0402"
    assert "MllamaForCausalLM" in caught.value.hint
