"""Environments of peers: kept when they are there, named with the reason when they can't be had."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from llmc.benchmarks.peer_bench import environments
from llmc.benchmarks.peer_bench.cases import Scheme
from llmc.benchmarks.peer_bench.environments import (
    ENVIRONMENTS,
    Environment,
    PeerMissing,
    cache_folder,
    ensure,
    last_line,
    logged,
    peer_variables,
    unresolved,
)
from llmc.benchmarks.peer_bench.results import Report
from llmc.benchmarks.peer_bench.session import Asked, _peers
from peer_reports import group_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def asked(**options: Any) -> Asked:
    return Asked(["smollm2-135m"], [Scheme.INT4], ["start"], ["llamacpp"], 1, 2, **options)


def silent(text: str) -> None:
    """Nobody listens."""


def test_everything_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "llmc" / "peers"


def test_a_complete_environment_is_used_again() -> None:
    folder = cache_folder() / "llamacpp"
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text(json.dumps(ENVIRONMENTS["llamacpp"].recipe))
    found = ensure("llamacpp", silent)
    assert found == folder / "bin" / "python"


def test_an_environment_of_another_recipe_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the header its text counts, not where it lies: checkouts share the cache."""
    header = tmp_path / "fix.h"
    header.write_text("#define FIX 1\n")
    nothing = Environment("Nothing", (("--version",),), (), included=header)
    monkeypatch.setitem(ENVIRONMENTS, "nothing", nothing)
    said: list[str] = []
    for text, made in (("1", 1), ("1", 1), ("2", 2)):
        header.write_text(f"#define FIX {text}\n")
        ensure("nothing", said.append)
        assert len(said) == made
    moved = header.rename(tmp_path / "moved.h")
    monkeypatch.setitem(ENVIRONMENTS, "nothing", replace(nothing, included=moved))
    ensure("nothing", said.append)
    assert len(said) == 2
    assert str(moved) in ENVIRONMENTS["nothing"].build_variables["CXXFLAGS"]


def test_a_failed_installation_leaves_the_reason_and_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = Environment("Broken", (("install", "--no-index", "no-such-package"),), ())
    monkeypatch.setitem(ENVIRONMENTS, "broken", broken)
    with pytest.raises(PeerMissing, match="no-such-package"):
        ensure("broken", silent)
    assert not (cache_folder() / "broken").exists()
    assert (cache_folder() / "broken.log").is_file()


def test_missing_peers_are_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("", {})
    broken = Environment("Broken", (("install", "--no-index", "no-such-package"),), ())
    monkeypatch.setitem(ENVIRONMENTS, "llamacpp", broken)
    assert _peers(asked(), [group_of("start")], report, silent) == {}
    assert "no-such-package" in report.missing["llamacpp"]


def test_pip_is_asked_for_all_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an environment takes away again needs no source; a reason is the reason of pip."""
    steps = (("install", "no-such-a"), ("uninstall", "--yes", "b"), ("install", "no-such-c"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setitem(ENVIRONMENTS, "broken", Environment("Broken", steps, ()))
    monkeypatch.setitem(ENVIRONMENTS, "empty", Environment("Empty", (("install", "pip"),), ()))
    write_wheel(tmp_path, "pip")
    found = unresolved(["broken", "empty"])
    assert list(found) == ["broken"]
    assert "no-such-a" in found["broken"]
    write_wheel(tmp_path, "no-such-a")
    assert "no-such-c" in unresolved(["broken"])["broken"]
    write_wheel(tmp_path, "no-such-c")
    assert unresolved(["broken"]) == {}


def write_wheel(folder: Path, name: str) -> None:
    """A wheel of nothing, for pip to find."""
    place = f"{name.replace('-', '_')}-1.0"
    with ZipFile(folder / f"{place}-py3-none-any.whl", "w") as wheel:
        about = f"{place}.dist-info"
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_who_takes_no_part_is_not_installed() -> None:
    report = Report("", {})
    assert _peers(asked(), [], report, silent) == {}
    assert report.missing == {}


def test_a_python_without_the_peer_is_missing(tmp_path: Path) -> None:
    pythons = {"llamacpp": tmp_path / "python"}
    report = Report("", {})
    assert _peers(asked(pythons=pythons), [group_of("start")], report, silent) == {}
    assert str(tmp_path / "python") in report.missing["llamacpp"]


def test_the_reason_is_the_last_error() -> None:
    text = "Collecting x\nERROR: No matching distribution for x\n\nnotice: a new pip\n"
    assert last_line(text) == "ERROR: No matching distribution for x"
    assert last_line("one\ntwo\n") == "two"
    assert last_line("") == "no output"


def test_a_failed_command_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(PeerMissing, match=str(log)):
        logged([sys.executable, "-c", "import sys; sys.exit('an error')"], log)


def test_peers_do_not_see_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("KEPT", "yes")
    found = peer_variables()
    assert "PYTHONPATH" not in found
    assert found["KEPT"] == "yes"
    assert environments.TORCH in ENVIRONMENTS["torch"].steps[0]
