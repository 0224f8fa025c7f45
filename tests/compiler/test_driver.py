"""`compile()` from end to end on a tiny model: what comes out, and that it answers."""

import json
from pathlib import Path

import llmc
import numpy as np
import pytest
from llmc.artifact.manifest import Limits
from llmc.artifact.reader import ArtifactReader
from llmc.base import machine
from llmc.base.errors import LlmcError
from llmc.codegen.cpu.backend import ConfiguredCpu
from llmc.codegen.cpu.packing import PANEL16
from llmc.compiler import driver
from llmc.compiler.assemble import decode_bytes
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.quality import compare
from llmc.compiler.targets import Program
from llmc.passes.features import OWN_KERNELS
from llmc.passes.quantize import SCHEMES
from llmc.runtime.api.conformance import verify
from llmc.weights.table import WeightTable
from tiny_model import BOS, EOS
from zoo import find

torch = pytest.importorskip("torch")


def greedy(path: Path, count: int = 8) -> list[int]:
    with llmc.load(path, threads=1) as model:
        stream = model.generate([5, 9, 14], max_tokens=count, ignore_eos=True)
        return [token for chunk in stream for token in chunk.token_ids]


def logits(path: Path) -> np.ndarray:
    with llmc.load(path, threads=1) as model:
        return np.array(model.logits(list(range(3, 40))))


def entries(path: Path) -> dict[str, bytes]:
    reader = ArtifactReader(path)
    return {name: bytes(reader.read(name)) for name in reader.names}


@pytest.mark.usefixtures("from_nothing")
def test_two_compiles_differ_in_the_certificate_only(
    llama: Path, compiled: Path, tmp_path: Path
) -> None:
    llmc.compile(str(llama), output=tmp_path / "again.llmc")
    first, second = entries(compiled), entries(tmp_path / "again.llmc")
    assert first.keys() == second.keys()
    different = {name for name in first if first[name] != second[name]}
    assert different <= {"certificate.json", "SHA256SUMS"}


def test_the_certificate_says_what_was_measured(compiled: Path) -> None:
    document = json.loads(entries(compiled)["certificate.json"])
    assert set(document) == {
        "seconds",
        "peak_rss_mb",
        "quality",
        "conformance_vectors",
        "passes",
    }
    assert document["seconds"] > 0
    assert document["peak_rss_mb"] > 10
    assert document["quality"] is None
    assert document["conformance_vectors"] == 2
    assert {"name", "milliseconds", "nodes"} == set(document["passes"][0])
    assert len({p["name"] for p in document["passes"]}) > 10


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"f32"}))
def test_every_scheme_compiles_verifies_and_generates(
    scheme: str, llama: Path, compiled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.llmc"
    llmc.compile(str(llama), scheme=scheme, output=path)
    checks = verify(path)
    assert all(check.ok for check in checks), checks
    assert {"vector 0 logits", "vector 1 greedy"} <= {check.name for check in checks}
    assert len(greedy(path)) == 8
    got, exact = logits(path), logits(compiled)
    assert not np.array_equal(got, exact)
    # Random weights quantize badly; nothing but a wrong scale or layout loses the correlation.
    assert np.corrcoef(got.ravel(), exact.ravel())[0, 1] > 0.9


def test_levels_of_one_artifact_agree(
    llama: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "levels.llmc"
    llmc.compile(str(llama), levels=["portable", "x86-64-v3", "x86-64-v4"], output=path)
    variants = ArtifactReader(path).manifest.variants
    assert {v.level for v in variants} >= {"portable", "x86-64-v3", "x86-64-v4"}
    assert len({v.weights for v in variants}) == 1
    expected, here = logits(compiled), machine.native_features()
    tried = []
    for variant in variants:
        features = set(variant.required_features)
        if not features <= here:
            continue
        monkeypatch.setattr(machine, "missing_features", lambda r, f=features: sorted({*r} - f))
        with llmc.load(path, threads=1) as model:
            assert model.variant is not None
            tried.append(model.variant.level)
            # float32 sums in another order, over three layers
            np.testing.assert_allclose(
                model.logits(list(range(3, 40))), expected, rtol=0, atol=2e-3
            )
    assert tried == [v.level for v in variants if set(v.required_features) <= here]


def test_a_directory_holds_the_same(
    llama: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_DUMP", str(tmp_path / "dump"))
    report = llmc.compile(str(llama), output=tmp_path / "llama", format="dir")
    changing = {"certificate.json", "SHA256SUMS"}
    first, second = entries(compiled), entries(tmp_path / "llama")
    assert {n: d for n, d in first.items() if n not in changing} == {
        n: d for n, d in second.items() if n not in changing
    }
    assert report.bytes == sum(len(data) for data in second.values())
    assert greedy(tmp_path / "llama") == greedy(compiled)
    dumps = sorted(f.name for f in (tmp_path / "dump" / "cpu").glob("[0-9][0-9]-*.txt"))
    assert dumps[0] == "00-traced.txt"
    assert len(dumps) > 10
    assert "graph" in (tmp_path / "dump" / "cpu" / dumps[-1]).read_text()


def test_special_tokens_reach_the_chat_template(compiled: Path) -> None:
    with llmc.load(compiled, threads=1) as model:
        assert model.encode("ab") == [BOS, *model.encode("ab", raw=True), EOS]


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = find("gpt2").save(tmp_path / "gpt2", tokenizer=False)
    path = tmp_path / "gpt2.llmc"
    llmc.compile(str(folder), output=path)
    assert all(check.ok for check in verify(path))
    assert len(greedy(path)) == 8
    with llmc.load(path, threads=1) as model, pytest.raises(LlmcError, match="E0210"):
        model.generate("text")


def test_the_quality_gate(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.llmc"
    with pytest.raises(LlmcError, match="E0301"):
        llmc.compile(str(llama), scheme="int4", max_kl=0, output=path)
    assert not list(tmp_path.iterdir())
    report = llmc.compile(str(llama), scheme="int8", max_kl=1, output=path)
    assert report.quality is not None
    assert 0 < report.quality["kl"] < 1
    assert 0 <= report.quality["top1_agreement"] <= 1
    assert report.quality["tokens"] > 100
    assert json.loads(entries(path)["certificate.json"])["quality"] == report.quality


def test_kl_divergence() -> None:
    p = torch.tensor([[0.5, 0.5, 1e-30], [0.9, 0.05, 0.05]]).log()
    q = torch.tensor([[0.25, 0.75, 1e-30], [0.9, 0.05, 0.05]]).log()
    # Only the first token differs: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75), over two tokens.
    expected = (0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2
    found = compare(q + 3, p - 5)  # a constant added to logits changes nothing
    assert found["kl"] == pytest.approx(expected, abs=2e-6)
    assert found["top1_agreement"] == 0.5
    assert found["tokens"] == 2


def test_a_decode_step_reads_only_active_experts() -> None:
    model = find("qwen3-moe")
    graph = lower_model(model.configuration(), 64, own_tensors, SCHEMES["f32"], OWN_KERNELS).graph
    limits = Limits(
        max_tokens=64, max_sequences=4, max_context=64, max_logits_rows=4, block_size=32
    )
    table = WeightTable(PANEL16)
    target = ConfiguredCpu(SCHEMES["f32"], ("portable",))
    lowered = target.lower(graph, limits, table)
    config = model.configuration()
    share = config.num_experts_per_tok / config.num_experts
    expected, experts = 0.0, 0
    for tensor in table.tensors:
        if "embed_tokens" in tensor.name:
            continue  # one row of it, which doesn't count
        experts += "experts" in tensor.name
        expected += tensor.nbytes * (share if "experts" in tensor.name else 1)
    assert experts == 2 * config.num_hidden_layers
    assert decode_bytes(Program(target, graph, lowered, table)) == expected


@pytest.mark.parametrize(
    ("options", "id"),
    [
        ({"max_context": 0}, "LLMC-E0205"),
        ({"max_context": 10**9}, "LLMC-E0205"),
        ({"max_kl": -1.0}, "LLMC-E0205"),
        ({"max_kl": float("nan")}, "LLMC-E0205"),
        ({"scheme": "int3"}, "LLMC-E0201"),
        ({"levels": ["sparc"]}, "LLMC-E0202"),
        ({"target": "abacus"}, "LLMC-E0203"),
        ({"max_ram": 100_000_000}, "LLMC-E0602"),
    ],
    ids=str,
)
def test_options_are_checked_before_the_model_is_opened(
    options: dict, id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "open_source", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(LlmcError) as caught:
        llmc.compile("some/model", output=tmp_path / "x.llmc", **options)
    assert caught.value.id == id
    assert not list(tmp_path.iterdir())
