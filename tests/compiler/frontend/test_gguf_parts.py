"""GGUF files as people keep them: split, beside adapters and projectors, in folders."""

import shutil
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

Kind = gguf.GGMLQuantizationType


def other(path: Path, arch: str, **keys: str) -> Path:
    """A file that is no model."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    writer.add_tensor("x", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split(folder: Path) -> list[Path]:
    """A model in several files, as `gguf-split` names them."""
    gm.write_gguf(
        folder / "m.gguf", gm.llama_model(), "llama", lambda name: Kind.Q8_0, split_max_tensors=8
    )
    return sorted(folder.glob("m-*.gguf"))


def refusal(path: Path) -> LlmcError:
    with pytest.raises(LlmcError) as caught:
        open_source(str(path))
    return caught.value


def test_a_split_model_is_the_whole_one(tmp_path: Path) -> None:
    parts = split(tmp_path)
    assert [part.name for part in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    source = open_source(str(parts[0]))
    (tmp_path / "one").mkdir()
    held = gm.write_gguf(tmp_path / "one/m.gguf", gm.llama_model(), "llama", lambda name: Kind.Q8_0)
    whole = open_source(str(tmp_path / "one/m.gguf"))
    assert source.config.to_dict() == whole.config.to_dict()
    assert source.tensors == whole.tensors
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    recipes = bind(model, source).recipes
    for name, recipe in recipes.items():
        value = RecipeValues(source.reader).value(recipe)
        assert np.array_equal(value, RecipeValues(whole.reader).value(recipe)), name
    value = RecipeValues(source.reader).value(recipes["model.layers.1.mlp.up_proj.weight"])
    assert np.array_equal(value, held["blk.1.ffn_up.weight"])
    assert list(source.digests.result()) == [part.name for part in parts]


def test_a_later_part_says_which_is_the_first(tmp_path: Path) -> None:
    error = refusal(split(tmp_path)[1])
    assert error.id == "LLMC-E0409"
    assert "part 2 of 3" in error.message
    assert "m-00001-of-00003.gguf" in str(error.hint)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = split(tmp_path)
    parts[2].unlink()
    error = refusal(parts[0])
    assert error.id == "LLMC-E0405"
    assert "m-00003-of-00003.gguf" in error.message


def test_a_part_of_another_model(tmp_path: Path) -> None:
    parts = split(tmp_path)
    shutil.copy(parts[1], parts[2])
    error = refusal(parts[0])
    assert error.id == "LLMC-E0417"
    assert "m-00003-of-00003.gguf is not part 3 of 3" in error.message


def test_a_first_part_under_another_name(tmp_path: Path) -> None:
    error = refusal(split(tmp_path)[0].rename(tmp_path / "model.gguf"))
    assert error.id == "LLMC-E0409"
    assert "isn't named as one" in error.message


def test_a_big_endian_file_is_called_that(tmp_path: Path) -> None:
    gm.write_gguf(tmp_path / "m.gguf", gm.llama_model(), "llama", endianess=gguf.GGUFEndian.BIG)
    error = refusal(tmp_path / "m.gguf")
    assert error.id == "LLMC-E0417"
    assert "big-endian" in error.message


@pytest.mark.parametrize(
    ("arch", "keys", "named"),
    [
        ("llama", {"general__type": "adapter", "adapter__type": "lora"}, "an adapter"),
        ("llama", {"adapter__type": "lora"}, "an adapter"),
        ("clip", {"general__type": "mmproj"}, "reads images"),
        ("clip", {}, "reads images"),
        ("llama", {"general__type": "imatrix"}, "an importance matrix"),
    ],
)
def test_what_is_no_model(arch: str, keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    error = refusal(other(tmp_path / "x.gguf", arch, **keys))
    assert error.id == "LLMC-E0409"
    assert f"x.gguf is {named}" in error.message or named in error.message


def test_a_folder_with_one_model(tmp_path: Path) -> None:
    split(tmp_path)
    other(tmp_path / "mmproj-m.gguf", "clip")
    other(tmp_path / "style.gguf", "llama", general__type="adapter")
    source = open_source(str(tmp_path))
    assert source.id == "m-00001-of-00003.gguf"
    assert len(source.notes) == 2
    assert "mmproj-m.gguf is the part of a multimodal model" in source.notes[0]
    assert "style.gguf is an adapter" in source.notes[1]


def test_folders_without_one_model(tmp_path: Path) -> None:
    gm.write_gguf(tmp_path / "a.gguf", gm.llama_model(), "llama")
    shutil.copy(tmp_path / "a.gguf", tmp_path / "b.gguf")
    error = refusal(tmp_path)
    assert error.id == "LLMC-E0409"
    assert "2 GGUF models: a.gguf, b.gguf" in error.message
    for path in tmp_path.iterdir():
        path.unlink()
    other(tmp_path / "style.gguf", "llama", general__type="adapter")
    error = refusal(tmp_path)
    assert error.id == "LLMC-E0409"
    assert "style.gguf is an adapter" in error.message


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = refusal(tmp_path / "v.gguf")
    assert error.id == "LLMC-E0409"
    assert "a vocabulary without weights" in error.message
