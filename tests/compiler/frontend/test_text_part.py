"""Multimodal checkpoints: the text part is compiled, with the tensors that belong to it."""

from pathlib import Path
from typing import Any

import llmc
import numpy as np
import pytest
import torch
import transformers
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.text_part import describe
from llmc.compiler.frontend.trace import build_on_meta
from llmc.ir.recipe_values import RecipeValues
from llmc.models.auto import whole_class
from llmc.models.eager import eager_logits
from llmc.models.random_weights import randomize
from llmc.models.tiny import decoder
from llmc.models.twin import twin
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


def test_a_text_model_alone_is_no_part(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder())).save_pretrained(tmp_path)
    source = open_source(str(tmp_path))
    assert isinstance(source.config, transformers.LlamaConfig)
    assert not bind(build_on_meta(source.config), source).left_out
