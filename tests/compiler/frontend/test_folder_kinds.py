"""Folders that people have and that can't be compiled: each refusal names the real cause."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.sources import open_source
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

pytestmark = pytest.mark.fast

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
}  # fmt: skip
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
INDEX = "model.safetensors.index.json"
Make = Callable[[Path], object]


def text(name: str, content: str = "{}") -> Make:
    def make(path: Path) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(content)

    return make


def data(name: str, content: bytes = b"content") -> Make:
    return lambda path: (path / name).write_bytes(content)


def weights(name: str = "model.safetensors", **tensors: torch.Tensor) -> Make:
    return lambda path: save_file(tensors or {"a": torch.ones(4, 4)}, path / name)


def config(**fields: object) -> Make:
    return text("config.json", json.dumps(CONFIG | fields))


def index(**weight_map: str) -> Make:
    names = {name: f"{shard}.safetensors" for name, shard in weight_map.items()}
    return text(INDEX, json.dumps({"weight_map": names}))


def linked(name: str, target: str) -> Make:
    return lambda path: (path / name).symlink_to(target)


def cut(name: str, size: int) -> Make:
    return lambda path: os.truncate(path / name, size)


TOKENIZER = text("tokenizer.json", Tokenizer(WordLevel({"a": 0})).to_str())
GOOD = (config(), weights())
POOLED = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]

CASES: dict[str, tuple[tuple[Make, ...], str, str, str]] = {
    "nothing": ((), "LLMC-E0409", "is empty", ""),
    "weights alone": ((weights(),), "LLMC-E0409", "weights (model.safetensors) but no config", ""),
    "tokenizer alone": ((TOKENIZER,), "LLMC-E0409", "a tokenizer and no model", "model"),
    "pickle alone": ((data("pytorch_model.bin"),), "LLMC-E0409", "pickled", "transformers"),
    "onnx alone": ((data("model.onnx"),), "LLMC-E0409", "ONNX weights (model.onnx)", "same model"),
    "onnx folder": ((text("onnx/model.onnx"),), "LLMC-E0409", "ONNX weights", "same model"),
    "diffusers": ((text("model_index.json"),), "LLMC-E0409", "diffusers", "language"),
    "embeddings": ((text("modules.json"),), "LLMC-E0409", "embedding model", "language"),
    "embeddings, at the top": (
        (*GOOD, text("modules.json", json.dumps(POOLED))),
        "LLMC-E0402", "embedding model", "language",
    ),
    "maker's own": (
        (text("params.json"), weights("consolidated.safetensors")),
        "LLMC-E0409", "params.json", "transformers saves it",
    ),
    "maker's own with a config": (
        (config(), weights("consolidated.safetensors")),
        "LLMC-E0404", "consolidated.safetensors", "transformers saves it",
    ),
    "one level down": (
        (text("checkpoint-500/config.json"),), "LLMC-E0409", "checkpoint-500 has one", "compile",
    ),
    "pickle with a config": (
        (config(), data("pytorch_model.bin")), "LLMC-E0404", "pytorch_model.bin", "never read",
    ),
    "other pickles": ((config(), data("model.pth")), "LLMC-E0404", "model.pth", "never read"),
    "training's leftovers": (
        (config(), data("training_args.bin"), data("optimizer.pt")), "LLMC-E0404", "no model", "",
    ),
    "keras": ((config(), data("tf_model.h5")), "LLMC-E0404", "TensorFlow weights", "transformers"),
    "flax": ((config(), data("flax_model.msgpack")), "LLMC-E0404", "Flax weights", "transformers"),
    "pointer": (
        (config(), data("model.safetensors", LFS)), "LLMC-E0417", "Git LFS", "git lfs pull",
    ),
    "pointer of a config": ((data("config.json", LFS),), "LLMC-E0418", "Git LFS", "git lfs pull"),
    "web page": (
        (config(), data("model.safetensors", b"<!DOCTYPE html><html>")),
        "LLMC-E0417", "web page", "again",
    ),
    "empty weights": ((config(), data("model.safetensors", b"")), "LLMC-E0417", "is empty", ""),
    "cut weights": ((*GOOD, cut("model.safetensors", 100)), "LLMC-E0417", "after 100 bytes of", ""),
    "complex weights": (
        (config(), weights(a=torch.ones(2, dtype=torch.complex64))), "LLMC-E0407", "C64", "",
    ),
    "no index": (
        (config(), weights("one.safetensors"), weights("two.safetensors")),
        "LLMC-E0405", "one.safetensors, two.safetensors", "index",
    ),
    "a missing shard": ((config(), index(a="one", b="two")), "LLMC-E0405", "with 1 others", ""),
    "a linked shard": (
        (config(), index(a="one"), linked("one.safetensors", "gone")),
        "LLMC-E0405", "broken link", "",
    ),
    "one name in two shards": (
        (
            config(), index(a="one", b="two"), weights("one.safetensors", a=torch.ones(3)),
            weights("two.safetensors", b=torch.ones(3), a=torch.zeros(3)),
        ),
        "LLMC-E0410", "different tensors a", "again",
    ),
    "linked weights": (
        (config(), linked("model.safetensors", "gone")), "LLMC-E0404", "broken link", "",
    ),
    "a loop": ((linked("config.json", "config.json"),), "LLMC-E0409", "broken link", ""),
    "no model_type": ((text("config.json"), weights()), "LLMC-E0418", "has no model_type", ""),
    "own code, no model_type": (
        (text("config.json", '{"auto_map": {"AutoConfig": "c.C"}}'), weights()),
        "LLMC-E0418", "has no model_type", "",
    ),
    "mark": (
        (data("config.json", b"\xef\xbb\xbf{}"), weights()),
        "LLMC-E0418", "byte order mark", "UTF-8",
    ),
    "utf-16": (
        (data("config.json", json.dumps(CONFIG).encode("utf-16")), weights()),
        "LLMC-E0418", "UTF-16", "UTF-8",
    ),
    "not json": (
        (text("config.json", '{"a": 1,\n "b" 2}'), weights()),
        "LLMC-E0418", "line 2, column 6", "",
    ),
    "latin-1": ((data("config.json", b'{"a": "\xe9"}'), weights()), "LLMC-E0418", "not UTF-8", ""),
    "empty config": ((data("config.json", b""), weights()), "LLMC-E0418", "is empty", ""),
    "a classifier": (
        (config(architectures=["LlamaForSequenceClassification"]), weights()),
        "LLMC-E0402", "LlamaForSequenceClassification", "",
    ),
    "masked": (
        (config(model_type="bert", architectures=["BertForMaskedLM"]), weights()),
        "LLMC-E0402", "BertForMaskedLM", "",
    ),
    "both directions": (
        (config(model_type="gemma3_text", use_bidirectional_attention=True), weights()),
        "LLMC-E0402", "attends in both directions", "causal",
    ),
    "a text part of two": (
        (text("config.json", '{"model_type": "florence2"}'), weights()),
        "LLMC-E0402", "of a florence2 is a bart, an encoder and a decoder", "causal",
    ),
    "an encoder and a decoder": (
        (config(model_type="t5", architectures=["T5ForConditionalGeneration"]), weights()),
        "LLMC-E0402", "T5ForConditionalGeneration", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_refusal_names_the_cause(tmp_path: Path, case: str) -> None:
    made, id, cause, hint = CASES[case]
    folder = tmp_path / "model"
    folder.mkdir()
    for make in made:
        make(folder)
    with pytest.raises(LlmcError) as caught:
        open_source(str(folder))
    assert caught.value.id == id
    assert cause in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


READ: dict[str, tuple[Make, ...]] = {
    "beside its maker's own": (*GOOD, weights("consolidated.safetensors", z=torch.ones(2))),
    "beside a pickle": (*GOOD, data("pytorch_model.bin")),
    "beside a variant": (*GOOD, weights("model.fp16.safetensors", a=torch.ones(2).half())),
    "beside an export": (*GOOD, text("onnx/model.onnx"), text("original/params.json")),
    "a variant alone": (config(), weights("model.fp16.safetensors")),
    "shards of a variant": (
        config(),
        text("model.safetensors.index.fp16.json", '{"weight_map": {"a": "one.safetensors"}}'),
        weights("one.safetensors"),
    ),
    "shards beside others": (
        config(), index(a="one"), weights("one.safetensors"), weights("x.safetensors"),
    ),
    "the same twice": (
        config(), index(a="one", b="two"), weights("one.safetensors"),
        weights("two.safetensors", a=torch.ones(4, 4), b=torch.ones(2)),
    ),
    "a whole file beside shards": (
        *GOOD, index(a="one"), weights("one.safetensors", a=torch.zeros(4, 4)),
    ),
    "bare model": (config(architectures=["LlamaModel"]), weights()),
    "old name": (config(architectures=["LLaMAForCausalLM"]), weights()),
    "multimodal": (config(architectures=["LlavaForConditionalGeneration"]), weights()),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_else_lies_there_is_not_read(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for make in READ[case]:
        make(folder)
    source = open_source(str(folder))
    assert set(source.tensors) <= {"a", "b"}
    (value,) = {
        float(v) for v in source.reader.rows(source.tensors["a"], torch.arange(4).numpy()).flat
    }
    assert value == 1
    assert any(
        "one.safetensors" not in n and "model.safetensors is read" in n for n in source.notes
    ) == (case == "a whole file beside shards")


def test_a_folder_called_like_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "x.gguf"
    folder.mkdir()
    for make in GOOD:
        make(folder)
    assert set(open_source(str(folder)).tensors) == {"a"}
