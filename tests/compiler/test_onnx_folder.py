"""`--emit onnx`: a folder that onnxruntime alone runs, and that is written with care."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import llmc
import numpy as np
import onnx
import onnxruntime
import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.onnx_folder import DATA, MODEL, check_folder, emit_folder, folder_path
from tiny_model import VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_generate.py"
OPTIONS = {"target": ["onnx"], "target_options": {"onnx": {"dialect": "standard"}}}


@pytest.fixture(scope="module")
def checkpoint(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer whose words are `w0`, `w1`, …"""
    folder = shutil.copytree(llama, tmp_path_factory.mktemp("with-words") / "llama")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folders") / "model"
    report = emit_folder(llmc.compile, str(checkpoint), path, OPTIONS)
    assert report.artifact == str(path)
    assert report.bytes == sum(file.stat().st_size for file in path.iterdir())
    return path


def greedy(artifact: Path, prompt: list[int], count: int) -> list[int]:
    with llmc.load(artifact, threads=1) as model:
        stream = model.generate(prompt, max_tokens=count, ignore_eos=True)
        return [token for chunk in stream for token in chunk.token_ids]


def test_holds_a_checked_model_and_what_belongs_to_it(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()}
    assert names == {MODEL, DATA, "tokenizer.json", "chat_template.jinja", "generation.json"}
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]
    onnx.checker.check_model(str(folder / MODEL), full_check=True)
    places = {
        entry.value
        for tensor in onnx.load(folder / MODEL, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {DATA}


def test_caches_may_be_as_long_as_the_caller_likes(folder: Path) -> None:
    """The same sequence in a short cache, in a long one, and beside another sequence."""
    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    ids = np.arange(5, 12)[None]

    def last_row(rows: int, length: int) -> np.ndarray:
        feed = {
            "token_ids": np.repeat(ids, rows, 0),
            "start": np.zeros(rows, np.int64),
            "logits_rows": np.array([rows * ids.size - 1]),
        }
        for given in session.get_inputs()[3:]:
            _, heads, _, width = given.shape
            feed[given.name] = np.zeros((rows, heads, length, width), np.float32)
        return np.asarray(session.run(["logits"], feed)[0])[0]

    alone = last_row(1, 7)
    np.testing.assert_allclose(last_row(1, 50), alone, atol=1e-5)
    np.testing.assert_allclose(last_row(3, 9), alone, atol=1e-5)


def test_the_example_says_what_the_artifact_says(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    llmc.compile(str(checkpoint), output=tmp_path / "cpu.llmc")
    expected = greedy(tmp_path / "cpu.llmc", [5, 9, 14], 8)
    ends = json.loads((folder / "generation.json").read_text())["eos_token_ids"]
    until = next((i for i, token in enumerate(expected) if token in ends), len(expected))
    done = subprocess.run(
        [sys.executable, "-I", str(EXAMPLE), str(folder), "w5 w9 w14", "--max-tokens", "8"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"w{token}" for token in expected[:until]]


def test_replaces_its_own_folder_only(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    check_folder(folder, str(checkpoint))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for path in (tmp_path / "mine", checkpoint, tmp_path / "none" / "folder"):
        with pytest.raises(LlmcError) as refusal:
            check_folder(path, str(checkpoint))
        assert refusal.value.id == "LLMC-E0702"
    assert folder_path(None, str(checkpoint)) == Path("llama-onnx")
    with pytest.raises(LlmcError) as refusal:
        emit_folder(llmc.compile, str(checkpoint), tmp_path / "x", {"target": ["cpu", "onnx"]})
    assert refusal.value.id == "LLMC-E0200"


def test_a_failed_compile_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(LlmcError):
        emit_folder(
            llmc.compile, str(checkpoint), tmp_path / "out" / "x", {**OPTIONS, "scheme": "int3"}
        )
    assert list((tmp_path / "out").iterdir()) == []
