"""Generation defaults as people write them: taken for what transformers takes them for, or refused.

What an id stands for is asked of transformers' own stopping criterion, what a sampling field does
of its logits processors.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import llmc
import msgspec
import pytest
import torch
from llmc.artifact.manifest import GENERATION, Generation, decode_generation
from llmc.base.errors import LlmcError
from llmc.compiler import driver
from llmc.compiler.assemble import draft_manifest
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.text_entries import text_entries
from llmc.runtime.api.conformance import text_checks
from llmc.runtime.engine.sampling.parameters import SamplingParams
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EosTokenCriteria,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama, tmp_path / "model")


def defaults(model: Path, fields: dict[str, Any], file: str = "generation_config.json"):
    """What the artifact of `model` would hold, with `fields` in one of its files; the notes."""
    raw = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps({**raw, **fields}))
    source = open_source(str(model))
    return decode_generation(text_entries(source)[GENERATION]), source.notes


@pytest.mark.parametrize(
    ("value", "noted"),
    [(5, 0), (5.0, 0), ([5, 6], 0), ([5.0], 0), (-1, 1), ([-1, 5], 1), ([-1], 1), (None, 0)],
    ids=str,
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_of_text_are_those_that_transformers_stops_at(
    value: Any, noted: int, file: str, model: Path
) -> None:
    """A text ends where any file says so: here also the tokenizer's own end, and config.json.

    transformers itself refuses a config.json (not a generation_config.json) with floats.
    """
    if file == "config.json":
        (model / "generation_config.json").unlink(missing_ok=True)
        if "." in str(value):
            with pytest.raises(LlmcError, match=r"config\.json.*eos_token_id") as caught:
                defaults(model, {"eos_token_id": value}, file)
            assert caught.value.id == "LLMC-E0418"
            return
    found, notes = defaults(model, {"eos_token_id": value}, file)
    vocab = AutoConfig.from_pretrained(model).vocab_size
    stops: list[int] = []
    if value is not None:
        criterion = EosTokenCriteria(torch.tensor(value, dtype=torch.long).reshape(-1))
        every: Any = torch.arange(vocab)[:, None]
        scores: Any = torch.empty(0)
        stops = criterion(every, scores).nonzero()[:, 0].tolist()
    stated = {AutoTokenizer.from_pretrained(model).eos_token_id}
    if file != "config.json":
        stated |= {json.loads((model / "config.json").read_text())["eos_token_id"]}
    assert sorted(found.eos_token_ids) == sorted({*stops, *stated})
    assert len(notes) == noted
    assert all(file in note and "eos_token_id" in note for note in notes)


@pytest.mark.parametrize("name", ["pad_token_id", "bos_token_id"])
def test_other_tokens_that_are_none(name: str, model: Path) -> None:
    found, notes = defaults(model, {name: -1})
    assert isinstance(found, Generation)
    assert notes == (f"generation_config.json: {name} -1 is no token: left out",)


@pytest.mark.parametrize(
    ("fields", "held", "noted"),
    [
        ({"top_k": 20.0}, {"top_k": 20}, 0),
        ({"top_k": 0}, {"top_k": 0}, 0),
        ({"top_k": -1}, {}, 1),
        ({"top_k": None, "temperature": None}, {}, 0),
        ({"temperature": 1}, {"temperature": 1.0}, 0),
        ({"temperature": 0}, {"temperature": 0.0}, 0),
        ({"top_p": 1}, {"top_p": 1.0}, 0),
        ({"top_p": 1.5}, {"top_p": 1.0}, 1),
        ({"top_p": 0}, {"top_k": 1}, 1),
        ({"top_p": 0.9, "top_k": 50, "min_p": 0}, {"top_p": 0.9, "top_k": 50, "min_p": 0.0}, 0),
        ({"repetition_penalty": 2}, {"repetition_penalty": 2.0}, 0),
    ],
    ids=str,
)
def test_sampling_defaults(
    fields: dict[str, Any], held: dict[str, Any], noted: int, model: Path
) -> None:
    (model / "generation_config.json").unlink(missing_ok=True)
    found, notes = defaults(model, fields)
    given = {name: getattr(found, name) for name in FIELDS if getattr(found, name) is not None}
    assert given == held
    assert len(notes) == noted
    SamplingParams(**given)  # a request may ask for them


def test_top_p_of_zero_is_what_transformers_makes_of_it() -> None:
    """The reason why it is written as top_k 1."""
    scores: Any = torch.randn(1, 40)
    ids: Any = torch.empty(0)
    one = TopPLogitsWarper(0.0)(ids, scores.clone())
    other = TopKLogitsWarper(1)(ids, scores.clone())
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "fields",
    [
        {"eos_token_id": "5"},
        {"eos_token_id": 5.5},
        {"eos_token_id": True},
        {"eos_token_id": [[5]]},
        {"eos_token_id": {}},
        {"eos_token_id": 10**20},
        {"eos_token_id": float("nan")},
        {"pad_token_id": "x"},
        {"bos_token_id": [1, None]},
        {"top_k": 20.5},
        {"top_k": -2},
        {"top_k": True},
        {"top_k": "20"},
        {"temperature": -1.0},
        {"temperature": "0.7"},
        {"temperature": float("inf")},
        {"top_p": -0.5},
        {"top_p": [0.9]},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_by_name(
    fields: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a tensor is even looked at."""
    monkeypatch.setattr(driver, "bind", lambda *_: pytest.fail("the weights were looked at"))
    (model / "generation_config.json").write_text(json.dumps(fields))
    with pytest.raises(LlmcError, match=r"generation_config\.json") as caught:
        llmc.compile(str(model), output=tmp_path / "x.llmc")
    assert caught.value.id == "LLMC-E0418"
    assert next(iter(fields)) in caught.value.message
    assert not (tmp_path / "x.llmc").exists()


@pytest.mark.parametrize(
    ("name", "content", "id"),
    [
        ("chat_template.jinja", "{% for m in messages %}", "LLMC-E0417"),
        ("chat_template.jinja", "{{ nope | no_such_filter }}", "LLMC-E0417"),
        ("tokenizer_config.json", '{"chat_template": "\\ud800"}', "LLMC-E0417"),
        ("tokenizer_config.json", '{"bos_token": "\\ud800"}', "LLMC-E0417"),
    ],
)
def test_text_that_the_runtime_could_not_open(
    name: str, content: str, id: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "bind", lambda *_: pytest.fail("the weights were looked at"))
    (model / "chat_template.jinja").unlink()
    (model / name).write_text(content)
    with pytest.raises(LlmcError) as caught:
        llmc.compile(str(model), output=tmp_path / "x.llmc")
    assert caught.value.id == id


def test_a_name_that_cannot_be_written_down(llama: Path) -> None:
    source = replace(open_source(str(llama)), id="a\udcff")
    with pytest.raises(LlmcError, match="not UTF-8"):
        draft_manifest(source, {}, [], {}, [])


def test_such_an_artifact_opens(model: Path, tmp_path: Path) -> None:
    config = {"eos_token_id": -1, "pad_token_id": -1, "top_k": 20.0, "temperature": 1}
    (model / "generation_config.json").write_text(json.dumps(config))
    for name in ("config.json", "tokenizer_config.json"):  # else a text ends where they say
        stated = json.loads((model / name).read_text())
        ends = {key for key in stated if key.startswith("eos_token")}
        (model / name).write_text(json.dumps({k: v for k, v in stated.items() if k not in ends}))
    report = llmc.compile(str(model), output=tmp_path / "x.llmc", levels=["portable"])
    assert sum("is no token" in note for note in report.notes) == 2
    with llmc.load(tmp_path / "x.llmc") as opened:
        assert opened.generation.top_k == 20
        assert opened.generation.eos_token_ids == []
        stream = opened.generate([1, 2, 3], max_tokens=4)
        list(stream)
        assert stream.finish_reason == "length"


def test_an_artifact_is_held_to_its_text(compiled: Path) -> None:
    """Before its first use, by what transformers made of the same files; `verify` says more."""
    with llmc.load(compiled) as model:
        told = model.text_vectors
        assert told is not None
        assert "transformers" in told.reference
        assert [check.ok for check in text_checks(model)] == [True] * 3
    text, chat = told.texts[0], told.chats[0]
    wrong = {
        "ids": msgspec.structs.replace(told, texts=[msgspec.structs.replace(text, ids=[1])]),
        "text": msgspec.structs.replace(told, texts=[msgspec.structs.replace(text, decoded="x")]),
        "prompts": msgspec.structs.replace(told, chats=[msgspec.structs.replace(chat, prompt="x")]),
    }
    for what, other in wrong.items():
        with llmc.load(compiled) as model:
            model.text_vectors = other
            failed = [check for check in text_checks(model) if not check.ok]
            assert what in {word for check in failed for word in check.name.split()}
            if what == "ids":
                with pytest.raises(LlmcError, match="E0510"):
                    model.encode("hi", raw=True)
            if what == "prompts":
                with pytest.raises(LlmcError, match="E0510"):
                    model.encode("hi")
