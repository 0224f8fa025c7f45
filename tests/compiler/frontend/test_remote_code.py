"""Models of a checkpoint's own code: run when the user says so, everywhere or nowhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import llmc
import numpy as np
import pytest
import torch
from llmc.artifact.reader import ArtifactReader
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import probe as probing
from llmc.compiler.frontend.checkpoint import load_config, open_checkpoint
from llmc.compiler.frontend.remote_code import code_digest
from llmc.compiler.frontend.trace import build_on_meta
from llmc.compiler.rebuild import rebuild
from llmc.models.eager import eager_greedy, eager_logits
from llmc.models.twin import twin
from llmc.passes.features import OWN_KERNELS
from own_models import save_own_model
from transformers import AutoModelForCausalLM, dynamic_module_utils

TEXT = [5, 17, 99, 3, 42, 0, 61, 8]


@pytest.fixture(scope="module", autouse=True)
def _copied_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies trusted code into a folder, under its digest, and imports it there."""
    modules = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", modules)
        patch.syspath_prepend(modules)
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save_own_model(tmp_path / "own", tmp_path / "ran")


def config_of(folder: Path, trust: bool = True) -> object:
    return load_config(folder, json.loads((folder / "config.json").read_text()), trust)


def test_without_leave_nothing_is_run(own: Path, tmp_path: Path) -> None:
    with pytest.raises(LlmcError) as refused:
        llmc.compile(str(own), output=tmp_path / "own.llmc")
    assert refused.value.id == "LLMC-E0402"
    assert "--trust-remote-code" in refused.value.hint
    assert not (tmp_path / "ran").exists()


def test_with_leave_it_answers_as_its_own_code(own: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "own.llmc"
    report = llmc.compile(
        str(own), output=artifact, trust_remote_code=True, max_kl=1e-6, levels=("native",)
    )
    assert (tmp_path / "ran").exists()
    assert any("matches eager" in note for note in report.notes), report.notes
    reference = AutoModelForCausalLM.from_pretrained(
        own, trust_remote_code=True, attn_implementation="eager", dtype=torch.float32
    ).eval()
    expected = eager_logits(reference, TEXT)
    with llmc.load(artifact, threads=1) as model:
        found = np.array(model.logits(TEXT))
        stream = model.generate(TEXT, max_tokens=12, ignore_eos=True)
        tokens = [token for chunk in stream for token in chunk.token_ids]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))
    assert tokens == eager_greedy(reference, TEXT, 12)
    digests = ArtifactReader(artifact).manifest.source.digests
    assert {"configuration_share.py", "modeling_share.py"} <= set(digests)
    with pytest.raises(LlmcError, match="LLMC-E0402"):
        rebuild(artifact, str(own))
    checks = rebuild(artifact, str(own), trust_remote_code=True)
    assert [check.name for check in checks if not check.ok] == []


def test_leave_travels_with_copies_and_changed_configs(own: Path) -> None:
    config = config_of(own)
    small = twin(config)  # type: ignore[arg-type]
    assert small is not None
    changed = type(config).from_dict(config.to_dict() | {"depth": 3})  # type: ignore[attr-defined]
    for one in (config, copy.deepcopy(config), small.config, changed):
        assert type(build_on_meta(one)).__name__ == "ShareForCausalLM"
        assert code_digest(one) == code_digest(config) != ""
    assert len(build_on_meta(changed).blocks) == 3


def test_leave_for_one_model_is_none_for_another(own: Path, tmp_path: Path) -> None:
    """A config of a type that transformers has may come with other code for it."""
    (own / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "vocab_size": 100, "width": 64, "depth": 2, "heads": 4,
        "shared": 2, "vocab": 100,
        "auto_map": {"AutoModelForCausalLM": "modeling_share.ShareForCausalLM"},
    }))  # fmt: skip
    assert type(build_on_meta(config_of(own, trust=False))).__name__ == "LlamaForCausalLM"
    assert not (tmp_path / "ran").exists()
    assert type(build_on_meta(config_of(own))).__name__ == "ShareForCausalLM"
    again = config_of(own, trust=False)
    assert type(build_on_meta(again)).__name__ == "LlamaForCausalLM"
    assert code_digest(again) == ""


def test_a_probe_is_of_one_version_of_the_code(own: Path) -> None:
    forms, raw = (OWN_KERNELS,), (own / "config.json").read_bytes()
    first = probing._stamp(config_of(own), raw, forms)
    assert probing._stamp(config_of(own), raw, forms) == first
    code = own / "modeling_share.py"
    code.write_text(code.read_text().replace("1e-5", "1e-6"))
    assert probing._stamp(config_of(own), raw, forms) != first


def test_a_probe_is_of_one_version_of_code_from_elsewhere(tmp_path: Path) -> None:
    """Classes in another repository, and what their files import from beside them."""
    there = save_own_model(tmp_path / "there", tmp_path / "ran")
    here = tmp_path / "here"
    here.mkdir()
    raw = json.loads((there / "config.json").read_text())
    raw["auto_map"] = {name: f"{there}--{where}" for name, where in raw["auto_map"].items()}
    (here / "config.json").write_text(json.dumps(raw))
    first = code_digest(config_of(here))
    assert code_digest(config_of(here)) == first
    (there / "configuration_share.py").open("a").write("\nWIDER = True\n")
    assert code_digest(config_of(here)) != first


def test_changed_code_is_another_source(own: Path) -> None:
    def digests() -> dict[str, str]:
        return open_checkpoint(own, id="own", trust_remote_code=True).digests.result()

    before = digests()
    with (own / "modeling_share.py").open("a") as file:
        file.write("\n# changed\n")
    after = digests()
    assert {name for name in after if after[name] != before[name]} == {"modeling_share.py"}


@pytest.mark.parametrize("line", ["import no_such_module_at_all", "raise RuntimeError('no')", "("])
def test_code_that_does_not_load_is_named(own: Path, line: str) -> None:
    code = own / "modeling_share.py"
    code.write_text(f"{code.read_text()}\n{line}\n")
    with pytest.raises(LlmcError, match=r"modeling_share\.ShareForCausalLM") as refused:
        config_of(own)
    assert refused.value.id == "LLMC-E0402"
    assert "\n" not in refused.value.message
