"""LoRA adapters as GGUF files, on GGUF bases: W + alpha/r · B·A, in the file's own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import gguf_models as gm
import numpy as np
import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.weights.values import RecipeValues
from transformers import AutoModelForCausalLM

RANK, ALPHA = 3, 7.5


def write_adapter(path: Path, arch: str, tensors: dict[str, np.ndarray], **fields: Any) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(fields.get("type", gguf.GGUFType.ADAPTER))
    writer.add_string(gguf.Keys.Adapter.TYPE, fields.get("method", "lora"))
    if fields.get("alpha", ALPHA):
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, fields.get("alpha", ALPHA))
    if "tokens" in fields:
        writer.add_array(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, fields["tokens"])
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def pair(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
    return {f"{name}.lora_a": draw(RANK, inputs), f"{name}.lora_b": draw(outputs, RANK)}


def values(source: Any) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    read = RecipeValues(source.reader)
    return {name: read.value(recipe) for name, recipe in bind(model, source).recipes.items()}


def check(source: Any, model: Any, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """The values of `model` with what `change` adds to them."""
    wanted = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    change(wanted)
    found = values(source)
    for name, expected in wanted.items():
        assert np.abs(found[name] - expected).max() <= 2e-6 * np.abs(expected).max(), name


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
def test_rows_in_the_order_of_the_file(tmp_path: Path, alpha: float) -> None:
    """As the converter writes them: rows of B are permuted as the rows of a query are."""
    model = gm.llama_model()
    gm.write_gguf(tmp_path / "m.gguf", model, "llama")
    query, up = pair("blk.1.attn_q.weight", 64, 64), pair("blk.0.ffn_up.weight", 96, 64)
    b = query["blk.1.attn_q.weight.lora_b"]
    permuted = query | {"blk.1.attn_q.weight.lora_b": gm.llama_rope(b, 4)}
    file = write_adapter(tmp_path / "a.gguf", "llama", permuted | up, alpha=alpha)

    def change(state: dict[str, np.ndarray]) -> None:
        scale = alpha / RANK if alpha else 1.0
        (a, b), (c, d) = query.values(), up.values()
        state["model.layers.1.self_attn.q_proj.weight"] += scale * (b @ a)
        state["model.layers.0.mlp.up_proj.weight"] += scale * (d @ c)

    source = open_source(str(tmp_path / "m.gguf"), lora=[str(file)])
    check(source, model, change)
    assert list(source.adapters[0].file_digests()) == ["a.gguf"]


def test_experts_and_embedding(tmp_path: Path) -> None:
    model = gm.experts_model()
    gm.write_gguf(tmp_path / "m.gguf", model, "qwen3moe")
    a, b = draw(4, RANK, 64), draw(4, 64, RANK)
    tokens, size = draw(96, RANK), draw(64, RANK)
    tensors = {"blk.1.ffn_up_exps.weight.lora_a": a, "blk.1.ffn_up_exps.weight.lora_b": b}
    tensors |= {"token_embd.weight.lora_a": tokens, "token_embd.weight.lora_b": size}

    def change(state: dict[str, np.ndarray]) -> None:
        state["model.layers.1.mlp.experts.gate_up_proj"][:, 64:] += ALPHA / RANK * (b @ a)
        state["model.embed_tokens.weight"] += ALPHA / RANK * (tokens @ size.T)

    file = write_adapter(tmp_path / "a.gguf", "qwen3moe", tensors)
    check(open_source(str(tmp_path / "m.gguf"), lora=[str(file)]), model, change)


def test_an_embedding_that_was_the_head_as_well(tmp_path: Path) -> None:
    model = gm.gemma_model()
    gm.write_gguf(tmp_path / "m.gguf", model, "gemma2")
    tokens, size = draw(96, RANK), draw(64, RANK)
    tensors = {"token_embd.weight.lora_a": tokens, "token_embd.weight.lora_b": size}
    file = write_adapter(tmp_path / "a.gguf", "gemma2", tensors)
    found = values(open_source(str(tmp_path / "m.gguf"), lora=[str(file)]))
    head = model.state_dict()["lm_head.weight"].numpy()
    assert np.array_equal(found["lm_head.weight"], head)
    expected = head + ALPHA / RANK * (tokens @ size.T)
    assert np.abs(found["model.embed_tokens.weight"] - expected).max() <= 1e-5


GOOD = pair("blk.0.ffn_up.weight", 96, 64)
HALF = {"blk.0.ffn_up.weight.lora_a": draw(RANK, 64)}
REFUSED = [
    (GOOD, {"type": gguf.GGUFType.MODEL}, "LLMC-E0425", "holds a model"),
    (GOOD, {"method": "control_vector"}, "LLMC-E0425", "control_vector"),
    (GOOD, {"tokens": [1, 2]}, "LLMC-E0425", "activated"),
    (GOOD, {"alpha": float("nan")}, "LLMC-E0417", "alpha"),
    (HALF, {}, "LLMC-E0406", "half"),
    (GOOD | {"blk.0.ffn_norm.weight": draw(64)}, {}, "LLMC-E0425", "ffn_norm"),
    (HALF | {"blk.0.ffn_up.weight.lora_b": draw(96, 2)}, {}, "LLMC-E0406", "no product"),
    (pair("blk.0.ffn_up.weight", 96, 32), {}, "LLMC-E0406", "[96, 32]"),
    (pair("blk.7.ffn_up.weight", 96, 64), {}, "LLMC-E0425", "no blk.7.ffn_up.weight"),
]


@pytest.mark.parametrize(("tensors", "fields", "id", "word"), REFUSED)
def test_what_cannot_be_merged_is_named(
    tmp_path: Path, tensors: dict[str, np.ndarray], fields: dict[str, Any], id: str, word: str
) -> None:
    gm.write_gguf(tmp_path / "m.gguf", gm.llama_model(), "llama")
    file = write_adapter(tmp_path / "a.gguf", "llama", tensors, **fields)
    with pytest.raises(LlmcError) as caught:
        values(open_source(str(tmp_path / "m.gguf"), lora=[str(file)]))
    assert caught.value.id == id
    assert word in caught.value.message


def test_a_checkpoint_has_other_names(tmp_path: Path) -> None:
    gm.llama_model().save_pretrained(tmp_path / "base")
    file = write_adapter(tmp_path / "a.gguf", "llama", GOOD)
    with pytest.raises(LlmcError, match="a GGUF file of 'llama'") as caught:
        values(open_source(str(tmp_path / "base"), lora=[str(file)]))
    assert caught.value.id == "LLMC-E0425"
