"""Work that many tests would do again, done once: traces in a process, C++ builds in a whole run.

A plugin of `tests/conftest.py`. A model's trace is kept by config, context and recipes; a library
by its source and level, in a folder that all workers of pytest-xdist share. Tests about compiling
the same thing twice ask for the fixture `from_nothing`, which leaves both out.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEPT = 6
"""Traces: a module's tests are about a few models."""
_BUILT = "LLMC_TEST_BUILDS"
"""Where libraries are; unset: nowhere."""


@pytest.fixture(scope="session", autouse=True)
def shared_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both, for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_BUILT, str(_shared_folder(tmp_path_factory)))
        yield


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same one for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Whoever makes `path` is alone at it."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared_compiler(shared_work: None) -> Iterator[None]:
    """The compiler, too; for tests that import it anyway."""
    from llmc.codegen.cpu import backend
    from llmc.compiler import driver

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "compile_library", build_once)
        patch.setattr(driver, "trace_model", Traces(driver.trace_model))
        yield


@pytest.fixture(scope="session")
def smollm2_int4(shared_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog's SmolLM2 at int4 with a context of 1024, compiled once in a run."""
    from llmc.compiler.driver import compile

    path = _shared_folder(tmp_path_factory) / "smollm2-int4.llmc"
    with _locked(path):
        if not path.exists():
            report = compile("smollm2-135m", scheme="int4", max_context=1024, output=path)
            assert not any("requantized" in note for note in report.notes)
    return path


@pytest.fixture
def from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compile of this test does all of its work."""
    from llmc.compiler import driver

    monkeypatch.delenv(_BUILT)
    if isinstance(driver.trace_model, Traces):
        monkeypatch.setattr(driver, "trace_model", driver.trace_model.original)


class Traces:
    """`trace_model`, which gives the latest traces again for the same question."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self._known: dict[Any, Any] = {}

    def __call__(self, config: Any, max_context: int, recipes: Any) -> Any:
        named = sorted((name, str(recipe)) for name, recipe in recipes(None).items())
        key = type(config), config.to_json_string(use_diff=False), max_context, str(named)
        found = self._known.pop(key, None) or self.original(config, max_context, recipes)
        self._known[key] = found
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return found


def build_once(
    source: str | Path,
    level: str,
    out: Path,
    *,
    extra_include: Sequence[Path] = (),
    stop: Any = None,
) -> Any:
    """`compile_library`, unless another test or another worker has built the same."""
    from llmc.codegen.cpu.toolchain import LEVELS, compile_library

    if _BUILT not in os.environ:
        return compile_library(source, level, out, extra_include=extra_include, stop=stop)
    text = source if isinstance(source, str) else source.read_text()
    digest = hashlib.sha256(f"{level}\n{[*map(str, extra_include)]}\n{text}".encode()).hexdigest()
    kept = Path(os.environ[_BUILT]) / f"{digest}.so"
    with _locked(kept):
        if not kept.exists():
            compile_library(source, level, kept, extra_include=extra_include, stop=stop)
    shutil.copyfile(kept, out)
    return LEVELS[level]
