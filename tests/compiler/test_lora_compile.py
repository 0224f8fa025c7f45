"""Adapters through the whole compile: answers, provenance, the folder that names its base."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import gguf_models as gm
import llmc
import numpy as np
import pytest
import torch
from llmc.artifact.reader import ArtifactReader
from llmc.base.errors import LlmcError
from llmc.cli.app import invoke
from llmc.compiler.frontend import sources
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.rebuild import rebuild
from lora_adapters import merged, save_adapter
from safetensors.torch import load_file, save_file
from zoo import find

pytest.importorskip("peft")
IDS = np.random.default_rng(3).integers(0, 250, 40).tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find("llama").save(tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "mine", target_modules="all-linear", r=4)


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].numpy()


def changed(folder: Path, **fields: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def refusal(spec: Path | str, **options: Any) -> LlmcError:
    with pytest.raises(LlmcError) as caught:
        open_source(str(spec), **options)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_compiled_adapter_answers_as_peft_merges_it(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    """The adapter alone, whose settings say where its base is; and the same by `--lora`."""
    expected = logits(merged(base, [adapter]))
    alone = llmc.compile(str(adapter), output=tmp_path / "alone.llmc", max_context=64)
    with llmc.load(tmp_path / "alone.llmc") as model:
        found = np.array(model.logits(IDS))
    assert np.abs(found - expected).max() <= 1e-3
    with llmc.load(llmc.compile(str(base), output=tmp_path / "b.llmc").artifact) as model:
        assert np.abs(np.array(model.logits(IDS)) - expected).max() > 0.1
    assert any("adapter mine is merged" in note for note in alone.notes)

    source = ArtifactReader(tmp_path / "alone.llmc").manifest.source
    assert source.id == "base"
    assert [a.id for a in source.adapters] == ["mine"]
    assert set(source.adapters[0].digests) == {"adapter_config.json", "adapter_model.safetensors"}
    for checks in (
        rebuild(tmp_path / "alone.llmc", str(adapter)),
        rebuild(tmp_path / "alone.llmc", str(base), lora=[str(adapter)]),
    ):
        assert "source adapter 1 adapter_model.safetensors" in {c.name for c in checks}
        assert all(c.ok for c in checks), [c for c in checks if not c.ok]


def test_a_rebuild_needs_the_same_adapter(tmp_path: Path, base: Path, adapter: Path) -> None:
    artifact = tmp_path / "m.llmc"
    llmc.compile(str(base), lora=[str(adapter)], output=artifact, max_context=64)
    wrong = [c.name for c in rebuild(artifact, str(base)) if not c.ok]
    assert "source adapter 1 adapter_model.safetensors" in wrong
    assert "rebuilt weights/cpu.safetensors" in wrong
    with pytest.raises(LlmcError) as caught:
        rebuild(artifact)
    assert caught.value.id == "LLMC-E0205"
    assert "--lora" in caught.value.hint


def test_beside_its_base(tmp_path: Path, base: Path, adapter: Path) -> None:
    """One folder with both: whatever else the settings name, the base is the one there."""
    both = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    changed(both, base_model_name_or_path="nobody/nothing")
    source = open_source(str(both))
    assert (source.id, [a.id for a in source.adapters]) == ("both", ["both"])
    assert "adapter_model.safetensors" not in source.digests.result()
    (both / "adapter_model.safetensors").unlink()
    assert refusal(both).id == "LLMC-E0404"


def test_where_the_base_is(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = shutil.copytree(adapter, tmp_path / "mine")
    shutil.copytree(adapter.parent / "base", tmp_path / "near")
    assert open_source(str(changed(mine, base_model_name_or_path="../near"))).id == "near"
    gone = refusal(changed(mine, base_model_name_or_path="/gone/base"))
    assert (gone.id, "--lora" in gone.hint) == ("LLMC-E0409", True)
    assert "base of adapter mine can't be opened: /gone/base" in gone.message
    assert "names no base model" in refusal(changed(mine, base_model_name_or_path=None)).message
    assert "without end" in refusal(changed(mine, base_model_name_or_path=str(mine))).message

    asked = []

    def fetch(hub_id: str, revision: str | None) -> Path:
        asked.append((hub_id, revision))
        return tmp_path / "near"

    monkeypatch.setattr(sources, "_snapshot", fetch)
    monkeypatch.chdir(tmp_path)
    changed(mine, base_model_name_or_path="some/base", revision="main")
    source = open_source("mine")
    assert asked == [("some/base", "main")]
    assert (source.id, source.revision) == ("some/base", "near")


def test_an_adapter_brings_its_tokenizer(tmp_path: Path, base: Path, adapter: Path) -> None:
    mine = shutil.copytree(adapter, tmp_path / "mine")
    assert open_source(str(base), lora=[str(mine)]).text == open_source(str(base)).text
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, mine)
    (mine / "chat_template.jinja").write_text("{{ 'mine' }}")
    source = open_source(str(base), lora=[str(mine)])
    assert source.text.chat_template == "{{ 'mine' }}"
    assert any("chat template are those of adapter mine" in note for note in source.notes)


REFUSED = [
    ({"peft_type": "IA3"}, "LLMC-E0425", "IA3"),
    ({"peft_type": "LOHA"}, "LLMC-E0425", "LOHA"),
    ({"peft_type": "PROMPT_TUNING"}, "LLMC-E0425", "PROMPT_TUNING"),
    ({"peft_type": "ADALORA"}, "LLMC-E0425", "ADALORA"),
    ({"peft_type": None}, "LLMC-E0418", "peft_type"),
    ({"alora_invocation_tokens": [1, 2]}, "LLMC-E0425", "alora_invocation_tokens"),
    ({"use_qalora": True}, "LLMC-E0425", "use_qalora"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "LLMC-E0425", "layer_replication"),
    ({"init_lora_weights": "pissa_niter_4"}, "LLMC-E0425", "pissa"),
    ({"init_lora_weights": "olora"}, "LLMC-E0425", "olora"),
    ({"use_dora": True}, "LLMC-E0425", "use_dora"),
    ({"r": 5}, "LLMC-E0406", "rank"),
    ({"r": "four"}, "LLMC-E0418", "rank"),
    ({"target_modules": 7}, "LLMC-E0418", "iterable"),
    ({"rank_pattern": {"(": 3}}, "LLMC-E0418", ""),
    ({"lora_alpha": None}, "LLMC-E0418", ""),
]


@pytest.mark.parametrize(("fields", "id", "word"), REFUSED)
def test_what_cannot_be_merged_is_named(
    tmp_path: Path, base: Path, adapter: Path, fields: dict[str, Any], id: str, word: str
) -> None:
    mine = changed(shutil.copytree(adapter, tmp_path / "mine"), **fields)
    with pytest.raises(LlmcError) as caught:
        llmc.compile(str(base), lora=[str(mine)], output=tmp_path / "m.llmc")
    assert caught.value.id == id
    assert word in caught.value.message
    assert "\n" not in caught.value.message


def test_modules_that_are_no_target_are_left_as_they_were(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    """As peft does, which warns of unexpected tensors."""
    mine = changed(shutil.copytree(adapter, tmp_path / "mine"), target_modules=["q_proj"])
    source = open_source(str(base), lora=[str(mine)])
    assert {c.parameter.split(".")[-2] for c in source.adapters[0].changes} == {"q_proj"}
    assert any("not among its target_modules" in note for note in source.notes)
    changed(mine, use_something_new=True)
    assert any("use_something_new" in n for n in open_source(str(base), lora=[str(mine)]).notes)


def test_weights_that_do_not_fit(tmp_path: Path, base: Path, adapter: Path) -> None:
    mine = shutil.copytree(adapter, tmp_path / "mine")
    file = mine / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("q_proj.lora_B.weight"))

    def refused(change: dict[str, torch.Tensor], dropped: str = "") -> LlmcError:
        kept = {n: t for n, t in (tensors | change).items() if n != dropped}
        save_file(kept, file)
        with pytest.raises(LlmcError) as caught:
            llmc.compile(str(base), lora=[str(mine)], output=tmp_path / "m.llmc")
        return caught.value

    assert refused({}, name).id == "LLMC-E0406"
    assert refused({name: torch.randn(7, 4)}).id == "LLMC-E0406"
    other = name.replace("layers.0.", "layers.77.")
    halves = {other: tensors[name].clone(), other.replace("_B.", "_A."): torch.randn(4, 64)}
    assert refused(halves).id == "LLMC-E0425"
    assert refused({"base_model.model.model.lora_C": torch.randn(3)}).id == "LLMC-E0425"
    assert refused({name: torch.full_like(tensors[name], torch.nan)}).id == "LLMC-E0408"
    os.truncate(file, 500)
    assert refusal(base, lora=[str(mine)]).id == "LLMC-E0417"
    file.unlink()
    (mine / "adapter_model.bin").write_bytes(b"pickle")
    pickled = refusal(base, lora=[str(mine)])
    assert (pickled.id, "never read" in pickled.hint) == ("LLMC-E0404", True)


def test_blocks_that_no_adapter_changes_are_kept(tmp_path: Path) -> None:
    """Beside two queries that are, in layers where all three projections would be one matrix."""
    kind = gguf.GGMLQuantizationType
    model = gm.llama_model()
    model.save_pretrained(tmp_path / "base")
    gm.write_gguf(
        tmp_path / "m.gguf", model, "llama",
        lambda name: kind.Q4_0 if "attn_" in name and "norm" not in name else kind.F32,
    )  # fmt: skip
    adapter = save_adapter(tmp_path / "base", tmp_path / "a", target_modules=["q_proj"], r=2)
    report = llmc.compile(
        str(tmp_path / "m.gguf"), lora=[str(adapter)], scheme="int4", output=tmp_path / "m.llmc"
    )
    (requantized,) = [note for note in report.notes if "requantized" in note]
    assert requantized.startswith("2 tensors requantized, q4_0 as ")
    assert "attn_q" in requantized


def test_the_command_takes_several(tmp_path: Path, base: Path, adapter: Path) -> None:
    """A graph with a rank-4 change of every linear layer, twice."""
    out = tmp_path / "graph.txt"
    options = ["--lora", str(adapter), "--lora", str(adapter), "--stop-after", "traced"]
    assert invoke(["compile", str(base), *options, "-o", str(out)]) == 0
    assert out.read_text().count("product(@adapter1:") == 21


def test_no_adapter_there(tmp_path: Path, base: Path) -> None:
    assert refusal(base, lora=[str(base)]).message.endswith("has no adapter_config.json")
    assert "folder" in refusal(base, lora=[str(base / "config.json")]).message
    assert refusal(base, lora=["nothing"]).id == "LLMC-E0409"
