"""`verify --rebuild`: an artifact is what its source compiles to."""

from pathlib import Path

import msgspec
import pytest
from llmc.compiler.driver import compile
from llmc.compiler.rebuild import compare, rebuild
from llmc.models.zoo import find
from llmc.runtime.errors import LlmcError
from llmc.runtime.reader import ArtifactReader


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint folder, artifact)."""
    folder = tmp_path_factory.mktemp("rebuild")
    checkpoint = find("gpt2").save(folder / "checkpoint")
    artifact = folder / "model.llmc"
    compile(str(checkpoint), scheme="int8", max_context=64, output=artifact)
    return checkpoint, artifact


def test_same_source_gives_the_same_entries(compiled: tuple[Path, Path]) -> None:
    checkpoint, artifact = compiled
    checks = rebuild(artifact, str(checkpoint))
    assert {"rebuilt weights/cpu.safetensors", "source config"} <= {c.name for c in checks}
    assert all(c.ok for c in checks), [c for c in checks if not c.ok]


def test_a_difference_is_named(compiled: tuple[Path, Path]) -> None:
    manifest = ArtifactReader(compiled[1]).manifest
    entries = dict(manifest.entries)
    other = msgspec.structs.replace(entries.pop("graph.txt"), sha256="0" * 64)
    changed = msgspec.structs.replace(manifest, entries=entries | {"graph.txt": other})
    assert [c.name for c in compare(manifest, changed) if not c.ok] == ["rebuilt graph.txt"]


def test_a_local_source_must_be_named(compiled: tuple[Path, Path]) -> None:
    with pytest.raises(LlmcError) as caught:
        rebuild(compiled[1])
    assert caught.value.id == "LLMC-E0205"
    assert "--source" in caught.value.hint
