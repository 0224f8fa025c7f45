"""`verify --rebuild`: an artifact is what its source compiles to."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from configured import configured
from llmc.artifact.reader import ArtifactReader
from llmc.artifact.targets import TARGETS
from llmc.base import machine
from llmc.base.errors import LlmcError
from llmc.codegen.cpu.toolchain import LEVELS, USER_LEVELS
from llmc.codegen.inductor.levels import LEVELS as INDUCTOR_LEVELS
from llmc.codegen.onnx.backend import PROVIDERS
from llmc.codegen.tensorrt.precision import BUILDABLE
from llmc.codegen.triton.machines import MACHINES
from llmc.compiler import rebuild as rebuilding
from llmc.compiler.driver import compile
from llmc.compiler.rebuild import compare, rebuild
from llmc.compiler.targets import ExactLevels, resolve_targets
from zoo import find


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint folder, artifact), compiled for this machine, which has AVX2 and no more.

    Its level's name is also a word for a group of levels.
    """
    folder = tmp_path_factory.mktemp("rebuild")
    checkpoint = find("gpt2").save(folder / "checkpoint")
    artifact = folder / "model.llmc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "machine", lambda: "x86_64")
        patch.setattr(machine, "native_features", lambda: LEVELS["x86-64-v3"].features)
        compile(str(checkpoint), scheme="int8", max_context=64, output=artifact)
    return checkpoint, artifact


@pytest.mark.usefixtures("from_nothing")
def test_same_source_gives_the_same_entries(compiled: tuple[Path, Path]) -> None:
    checkpoint, artifact = compiled
    assert ArtifactReader(artifact).manifest.options["levels"] == {"cpu": ["x86-64-v3"]}
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


WORDS = {
    "cpu": [(), ("native",), ("x86-64-v4", "portable"), *((w,) for w in [*USER_LEVELS, *LEVELS])],
    "onnx": [(), *((word,) for word in PROVIDERS), ("cpu", "cuda")],
    "trt": [(), *((str(sm),) for sm in BUILDABLE), ("89", "86"), tuple(map(str, BUILDABLE))],
    "triton": [*((str(sm),) for sm in MACHINES), ("90", "ptx"), tuple(map(str, MACHINES))],
    "inductor": [("native",), *((word,) for word in INDUCTOR_LEVELS), tuple(INDUCTOR_LEVELS)],
}  # fmt: skip


SOME_LEVEL = {"inductor": ("x86-64-v3",), "triton": ("90",)}
"""For targets that can't be configured for every machine."""


class Captured(Exception):
    """Carries what `rebuild` asked the compiler for."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_all_levels_survive_the_manifest(
    compiled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, target: str, level: str
) -> None:
    """Whatever is asked for, on whatever machine: the rebuild is for what the compile was for."""
    monkeypatch.setattr(
        type(configured(target, levels=SOME_LEVEL.get(target, ()))), "require_tools", lambda _: None
    )
    monkeypatch.setattr(machine, "machine", lambda: LEVELS[level].machine)
    monkeypatch.setattr(machine, "native_features", lambda: LEVELS[level].features)
    monkeypatch.setattr(rebuilding, "compile", capture)
    manifest = ArtifactReader(compiled[1]).manifest
    for words in WORDS[target]:
        if words == ("native",) and target == "inductor" and not level.startswith("x86-64"):
            continue
        first = resolve_targets([target], "int8", None, {target: words}, {})
        options = {"target": [target], "levels": {t.name: list(t.levels) for t in first}}
        recorded = json.loads(json.dumps(manifest.options | options))
        changed = msgspec.structs.replace(manifest, options=recorded)
        opened = SimpleNamespace(manifest=changed)
        monkeypatch.setattr(rebuilding, "ArtifactReader", lambda _, opened=opened: opened)
        with pytest.raises(Captured) as asked:
            rebuild(compiled[1], "wherever")
        (given,) = asked.value.args
        again = resolve_targets(given["target"], "int8", None, given["levels"], {})
        assert [t.levels for t in again] == [t.levels for t in first], words


def capture(source: str, **options: Any) -> None:
    raise Captured(options)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("cpu", ("native",)), ("cpu", ("sapphire-rapids",)), ("onnx", ("tensorrt",)),
        ("inductor", ("native",)), ("trt", ("86",)), ("trt", ("sm86", "sm89")),
    ],
)  # fmt: skip
def test_words_are_no_names_of_levels(target: str, names: tuple[str, ...]) -> None:
    with pytest.raises(LlmcError) as refused:
        resolve_targets([target], "f32", None, {target: ExactLevels(names)}, {})
    assert refused.value.id == "LLMC-E0202"
