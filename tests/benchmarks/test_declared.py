"""What `make bench` runs in llmc's environment needs the extra `bench` and nothing beside.

The scripts run in an environment made from the extra, on tiny models.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gguf
import pytest
import torch
from gguf_models import llama_model, write_gguf
from linked_environment import ROOT, make_environment, run
from llmc.benchmarks.peer_bench.cases import Model
from llmc.benchmarks.peer_bench.models import DRIVERS
from peer_reports import report
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

OURS = ("measure_limits", "launch", "drive_llmc")
"""Scripts that run in our own environment beside `make_source`; the others run in a peer's."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment made from the extra, with this checkout as `llmc`."""
    folder = tmp_path_factory.mktemp("bench")
    packages = make_environment(folder, "bench")
    (packages / "llmc").symlink_to(ROOT)
    return folder / "bin" / "python"


def words(writer: gguf.GGUFWriter) -> None:
    """A tokenizer of letters, as SmolLM2's file has one of many more."""
    letters = [*(chr(code) for code in range(33, 33 + 92)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<unk>", "<s>", "</s>", *letters])
    writer.add_token_types([3, 3, 3, *[1] * len(letters)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)


def test_the_sources_of_all_peers_can_be_made(python: Path, tmp_path: Path) -> None:
    """The catalog's GGUF file, dequantized; random weights; a GGUF file of those again."""
    held = write_gguf(tmp_path / "tiny.gguf", llama_model(), "llama", extra=words)
    dequantized = tmp_path / "dequantized"
    shape = json.dumps(asdict(Model("tiny", 64, 96, 2, 4, 2, 16, 96, 1)))
    code = (
        "import os, runpy, sys; script, file, plain, shape, random, again = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(script))\n"
        "verbs = runpy.run_path(script)\n"
        "verbs['dequantize'](file, plain)\n"
        "verbs['random_weights'](shape, plain, random)\n"
        "verbs['write_gguf'](random, again)\n"
    )
    files = (
        tmp_path / "tiny.gguf",
        dequantized,
        shape,
        tmp_path / "random",
        tmp_path / "random.gguf",
    )
    done = run(python, "-c", code, DRIVERS / "make_source.py", *files)
    assert done.returncode == 0, done.stderr
    weights = load_file(dequantized / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"].float().numpy()
    assert (embedding == held["token_embd.weight"]).all()
    tensors = gguf.GGUFReader(tmp_path / "random.gguf").tensors
    assert len(tensors) == len(load_file(tmp_path / "random" / "model.safetensors"))


TINY = {
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "norm_eps": 1e-5},
    "mamba2": {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1, "expand": 2},
}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 96, "tie_word_embeddings": True}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}


@pytest.mark.parametrize("kind", TINY)
def test_files_of_models_with_state_have_all_their_tensors(kind: str, tmp_path: Path) -> None:
    """Under names that the gguf library lists for the architecture."""
    heads = HEADS if kind == "lfm2" else {}
    config = AutoConfig.for_model(kind, **SIZES, **heads, **TINY[kind])
    folder, file = tmp_path / "folder", tmp_path / "file.gguf"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    command = [sys.executable, DRIVERS / "make_source.py", "gguf", folder, file]
    subprocess.run(command, check=True)
    tensors = {tensor.name for tensor in gguf.GGUFReader(file).tensors}
    assert len(tensors) == len(load_file(folder / "model.safetensors"))
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    known = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[arch]}
    stems = {re.sub(r"blk\.\d+", "blk.{bid}", name).removesuffix(".weight") for name in tensors}
    assert {stem.removesuffix(".bias") for stem in stems} <= known


@pytest.mark.parametrize("name", OURS)
def test_the_scripts_import_what_is_declared(python: Path, tmp_path: Path, name: str) -> None:
    code = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2])"
    done = run(python, "-c", code, DRIVERS, DRIVERS / f"{name}.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_targets_that_are_measured_can_compile(python: Path, tmp_path: Path) -> None:
    code = (
        "from llmc.compiler.driver import compile\n"
        "from llmc.compiler.targets import resolve_targets\n"
        "from llmc.benchmarks.peer_bench.cases import TARGETS\n"
        "resolve_targets(TARGETS, 'int4', None, {}, {})\n"
    )
    done = run(python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_run_itself_starts(python: Path, tmp_path: Path) -> None:
    report().write(tmp_path / "report.json")
    script = ROOT / "benchmarks" / "peers.py"
    done = run(python, script, "--rounds", 0, "--merge", tmp_path / "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "OpenVINO" in done.stdout


def test_nothing_else_is_there(python: Path) -> None:
    """Or this environment would show nothing."""
    code = "from importlib.util import find_spec; print(find_spec('pytest'), find_spec('fastapi'))"
    assert run(python, "-c", code).stdout.split() == ["None", "None"]
