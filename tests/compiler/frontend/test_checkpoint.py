"""Local directories: what belongs to a model is found, and what is broken is named."""

import json
from pathlib import Path

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.sources import open_source
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

pytestmark = pytest.mark.fast

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "eos_token_id": 5,
}  # fmt: skip
INDEX = "model.safetensors.index.json"


def directory(path: Path, config: object = CONFIG, weights: bool = True) -> Path:
    path.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (path / "config.json").write_text(text)
    if weights:
        save_file({"a": torch.randn(4, 4)}, path / "model.safetensors")
    return path


def refusal(path: Path) -> LlmcError:
    with pytest.raises(LlmcError) as caught:
        open_source(str(path))
    return caught.value


def test_everything_beside_the_weights(tmp_path: Path) -> None:
    model = directory(tmp_path / "my-model")
    tokenizer = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?")).to_str()
    (model / "tokenizer.json").write_text(tokenizer)
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (model / "generation_config.json").write_text('{"eos_token_id": [5, 6], "temperature": 0.7}')
    (model / "LICENSE").write_text("free")
    source = open_source(str(model))
    assert source.id == "my-model"
    assert source.config.hidden_size == 32
    reference = AutoTokenizer.from_pretrained(model)
    assert source.text.tokenizer == reference.backend_tokenizer.to_str().encode()
    assert source.text.chat_template == "{{ messages }}"
    assert source.text.generation == {"eos_token_id": [5, 6], "temperature": 0.7}
    assert source.text.license == "free"
    assert list(source.tensors) == ["a"]
    digests = source.digests.result()
    assert list(digests) == ["model.safetensors"]
    assert digests == open_source(str(model)).digests.result()


def test_without_a_text_side(tmp_path: Path) -> None:
    source = open_source(str(directory(tmp_path / "m")))
    assert source.text.tokenizer is None
    assert source.text.chat_template is None
    assert source.text.generation == {"eos_token_id": 5}


LIMITS = {
    "truncation": {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    },
    "padding": {
        "strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "?",
    },
}  # fmt: skip


@pytest.mark.parametrize("named", [["truncation"], ["padding"], ["truncation", "padding"]])
def test_truncation_and_padding_are_not_taken_over(tmp_path: Path, named: list[str]) -> None:
    """As training scripts leave them; transformers applies neither to a call by itself."""
    model = directory(tmp_path / "m")
    plain = Tokenizer(WordLevel({"a": 0, "?": 1, "b": 2}, unk_token="?"))
    plain.pre_tokenizer = Whitespace()
    raw = json.loads(plain.to_str()) | {name: LIMITS[name] for name in named}
    (model / "tokenizer.json").write_text(json.dumps(raw))
    data = open_source(str(model)).text.tokenizer
    assert data is not None
    held = json.loads(data)
    assert (held["truncation"], held["padding"]) == (None, None)
    assert held["model"] == json.loads(plain.to_str())["model"]
    text = "a b a b a b a"
    expected = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))(text)
    assert Tokenizer.from_buffer(data).encode(text).ids == expected["input_ids"] == [0, 2] * 3 + [0]


def test_the_template_file_wins_and_lists_have_a_default(tmp_path: Path) -> None:
    model = directory(tmp_path / "m")
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    (model / "tokenizer.json").write_text(Tokenizer(WordLevel({"a": 0})).to_str())
    text = open_source(str(model)).text
    assert (text.chat_template, text.named_templates) == ("D", {"tool_use": "T"})
    (model / "chat_template.jinja").write_text("J")
    assert open_source(str(model)).text.chat_template == "J"


def test_a_lone_file_of_another_name(tmp_path: Path) -> None:
    model = directory(tmp_path / "m")
    (model / "model.safetensors").rename(model / "weights.safetensors")
    assert list(open_source(str(model)).tensors) == ["a"]


def test_missing_and_empty(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing").id == "LLMC-E0409"
    assert refusal(tmp_path).id == "LLMC-E0409"
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(tmp_path / "notes.txt").id == "LLMC-E0409"


def test_a_config_without_weights(tmp_path: Path) -> None:
    model = directory(tmp_path / "m", weights=False)
    assert refusal(model).id == "LLMC-E0404"
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    assert "never read" in refusal(model).hint


def test_shards(tmp_path: Path) -> None:
    model = directory(tmp_path / "m", weights=False)
    for name in ("one", "two"):
        save_file({name: torch.randn(3)}, model / f"{name}.safetensors")
    assert refusal(model).id == "LLMC-E0405"

    def index(weight_map: object) -> None:
        (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    index({"one": "one.safetensors", "two": "two.safetensors"})
    source = open_source(str(model))
    assert set(source.tensors) == {"one", "two"}
    assert list(source.digests.result()) == ["one.safetensors", "two.safetensors"]
    index({"one": "one.safetensors", "two": "gone.safetensors"})
    assert "gone.safetensors" in refusal(model).message
    assert refusal(model).id == "LLMC-E0405"
    index({"one": "one.safetensors", "three": "two.safetensors"})
    assert refusal(model).id == "LLMC-E0406"
    index({"one": "../m/one.safetensors"})
    assert refusal(model).id == "LLMC-E0417"
    index({})
    assert refusal(model).id == "LLMC-E0417"
    (model / INDEX).write_text("[")
    assert refusal(model).id == "LLMC-E0417"


def test_an_unlisted_tensor_of_a_shard(tmp_path: Path) -> None:
    model = directory(tmp_path / "m", weights=False)
    save_file({"one": torch.randn(3), "two": torch.randn(3)}, model / "s.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"one": "s.safetensors"}}))
    assert refusal(model).id == "LLMC-E0410"


@pytest.mark.parametrize(
    ("config", "id", "named"),
    [
        ("{", "LLMC-E0418", "config.json"),
        ([1], "LLMC-E0418", "not a JSON object"),
        ({}, "LLMC-E0418", "model_type"),
        (CONFIG | {"model_type": "nonesuch"}, "LLMC-E0402", "nonesuch"),
        (CONFIG | {"hidden_size": "wide"}, "LLMC-E0418", "config.json"),
        (CONFIG | {"quantization_config": {"quant_method": "aqlm"}}, "LLMC-E0419", "aqlm"),
        (CONFIG | {"compression_config": {"quant_method": "gptq"}}, "LLMC-E0418", "bits"),
    ],
)
def test_bad_configs(tmp_path: Path, config: object, id: str, named: str) -> None:
    error = refusal(directory(tmp_path / "m", config))
    assert error.id == id
    assert named in error.message
    assert "\n" not in error.message


def test_remote_code_is_only_run_when_allowed(tmp_path: Path) -> None:
    config = CONFIG | {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    model = directory(tmp_path / "m", config)
    (model / "code.py").write_text("raise SystemExit('ran')")
    error = refusal(model)
    assert error.id == "LLMC-E0402"
    assert "--trust-remote-code" in error.hint


def test_a_truncated_weights_file(tmp_path: Path) -> None:
    model = directory(tmp_path / "m")
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert refusal(model).id == "LLMC-E0417"
