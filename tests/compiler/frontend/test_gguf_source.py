"""GGUF files: the same weights as the model they were made from, and blocks kept whole."""

from pathlib import Path

import gguf
import gguf_models as gm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.gguf_file import GgufFile
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.names import bind
from llmc.compiler.frontend.sources import open_source
from llmc.ir.types import DType
from llmc.weights.formats.registry import dequantize
from llmc.weights.held_blocks import held_formats, requantized_tensors
from llmc.weights.recipes import Recipe
from llmc.weights.values import RecipeValues
from transformers import AutoModelForCausalLM

Kind = gguf.GGMLQuantizationType


def bound(path: Path) -> tuple[ModelSource, dict[str, Recipe]]:
    source = open_source(str(path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    return source, bind(model, source).recipes


@pytest.mark.parametrize(
    ("arch", "build"),
    [("llama", gm.llama_model), ("gemma2", gm.gemma_model), ("qwen3moe", gm.experts_model)],
)
def test_recipes_equal_the_model_that_was_written(tmp_path: Path, arch: str, build) -> None:
    model = build()
    gm.write_gguf(tmp_path / "m.gguf", model, arch)
    source, recipes = bound(tmp_path / "m.gguf")
    values, expected = RecipeValues(source.reader), model.state_dict()
    assert set(recipes) == set(expected)
    # Offset norms are stored as w + 1, which rounds w to float32's spacing near 1.
    tolerance = 3e-7 if arch == "gemma2" else 0
    for name, tensor in expected.items():
        difference = values.value(recipes[name]) - tensor.numpy()
        assert np.abs(difference).max() <= tolerance, name
    config = source.config
    assert config.vocab_size == 96
    assert config.num_key_value_heads == 2
    assert source.text.generation["eos_token_id"] == [2]


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        (Kind.Q4_0, DType.I4S),
        (Kind.Q4_1, DType.I4A),
        (Kind.Q8_0, DType.I8B),
    ],
)
def test_blocks_keep_their_bits_through_the_row_permutation(
    tmp_path: Path, kind: Kind, format: DType
) -> None:
    path = tmp_path / "m.gguf"
    held = gm.write_gguf(path, gm.llama_model(), "llama", lambda name: kind)
    source, recipes = bound(path)
    values = RecipeValues(source.reader)
    recipe = recipes["model.layers.1.self_attn.q_proj.weight"]
    assert held_formats(recipe)[0] is format
    q = values.quantized_rows(recipe, format)
    pairs = held["blk.1.attn_q.weight"].reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    assert np.array_equal(dequantize(q), pairs)
    stored = values.quantized_rows(source.tensors["blk.1.attn_q.weight"], format)
    assert sorted(map(bytes, q.codes)) == sorted(map(bytes, stored.codes))


@pytest.mark.parametrize("kind", [Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16])
def test_other_types_are_dequantized(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "m.gguf"
    held = gm.write_gguf(path, gm.llama_model(), "llama", lambda name: kind)
    source, recipes = bound(path)
    recipe = recipes["model.layers.0.mlp.up_proj.weight"]
    value = RecipeValues(source.reader).value(recipe)
    assert np.array_equal(value, held["blk.0.ffn_up.weight"])
    blocked = kind in (Kind.Q5_0, Kind.Q5_1)
    assert bool(requantized_tensors(recipe, DType.I4A)) == blocked


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "nonesuch")
    writer.add_tensor("x", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LlmcError, match="nonesuch") as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == "LLMC-E0403"


def test_special_tokens_that_are_none(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_int32("tokenizer.ggml.padding_token_id", -1)
        writer.add_int32("tokenizer.ggml.eot_token_id", -1)

    gm.write_gguf(tmp_path / "m.gguf", gm.llama_model(), "llama", extra=extra)
    source = open_source(str(tmp_path / "m.gguf"))
    assert source.text.generation == {"eos_token_id": [2]}
    assert len(source.notes) == 2
    assert all("_token_id -1 is no token" in note for note in source.notes)


def test_special_tokens_that_are_no_ids(tmp_path: Path) -> None:
    gm.write_gguf(
        tmp_path / "m.gguf", gm.llama_model(), "llama",
        extra=lambda writer: writer.add_string("tokenizer.ggml.eot_token_id", "end"),
    )  # fmt: skip
    with pytest.raises(LlmcError, match=r"m\.gguf: tokenizer\.ggml\.eot_token_id") as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.id == "LLMC-E0418"


def test_a_tensor_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    """It may change the model; transformers would leave it out silently."""
    gm.write_gguf(
        tmp_path / "m.gguf", gm.llama_model(), "llama",
        change=lambda t: t.update({"blk.0.attn_sinks.weight": np.ones(8, np.float32)}),
    )  # fmt: skip
    with pytest.raises(LlmcError, match="attn_sinks") as caught:
        bound(tmp_path / "m.gguf")
    assert caught.value.id == "LLMC-E0410"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    name = "blk.0.ffn_norm.weight"
    gm.write_gguf(
        tmp_path / "m.gguf", gm.llama_model(), "llama", change=lambda t: t[name].put(3, bad)
    )
    source, _ = bound(tmp_path / "m.gguf")
    with pytest.raises(LlmcError, match=name):
        RecipeValues(source.reader).value(source.tensors[name])


def test_a_block_scale_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gm.write_gguf(path, gm.llama_model(), "llama", lambda name: Kind.Q4_0)
    file = GgufFile(path)
    tensor = file.tensors["blk.0.ffn_up.weight"]
    with path.open("r+b") as f:
        f.seek(file._extents[tensor.name].offset)
        f.write(np.float16(np.nan).tobytes())
    for read in (file.rows, file.blocks):
        with pytest.raises(LlmcError, match=r"blk\.0\.ffn_up\.weight") as caught:
            read(tensor, np.arange(2))
        assert caught.value.id == "LLMC-E0408"


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gm.write_gguf(path, gm.llama_model(), "llama")
    whole = path.read_bytes()
    for size in (0, 3, 10, 24, 200, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(LlmcError) as caught:
            open_source(str(path))
        assert caught.value.id == "LLMC-E0417", size


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_header_bytes_never_crash(data: st.DataObject, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("flip") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tags", ["a", "bc"])
    writer.add_uint32("n", 3)
    writer.add_tensor("x", np.arange(32, dtype=np.float32).reshape(4, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 129))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        file = GgufFile(path)
        tensors = [(t, file.rows(t, np.arange(1))) for t in file.tensors.values()]
        assert all(len(values) == 1 for _, values in tensors)
    except LlmcError as error:
        assert error.exit_code == 4  # noqa: PT017
