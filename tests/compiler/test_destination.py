"""Where an artifact goes: refused before any work if it can't be written there."""

import subprocess
import sys
from pathlib import Path

import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.destination import check_output, output_path


def refused(path: Path | str, model: Path | str = "some/model", format: str = "file") -> str:
    with pytest.raises(LlmcError) as caught:
        check_output(Path(path), format, str(model))  # type: ignore[arg-type]
    assert caught.value.id == "LLMC-E0702"
    return caught.value.message


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_path("a/b", "model") == Path("a/b")
    assert output_path(None, "org/Name-1.5B") == Path("Name-1.5B.llmc")
    assert output_path(None, "x/model.gguf") == Path("model.llmc")
    assert output_path(None, "gone/model/") == Path("model.llmc")
    assert output_path(None, ".") == Path(f"{tmp_path.name}.llmc")


def test_unwritable(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone" / "x.llmc")
    assert "not a regular file" in refused(tmp_path)
    assert "not a regular file" in refused("/dev/null")
    assert "names no file" in refused("")
    assert "too long" in refused(tmp_path / ("x" * 250))
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in refused(tmp_path / "file" / "x.llmc")
    assert "not an artifact directory" in refused(tmp_path / "file", format="dir")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_model_is_never_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weights, gguf = model / "model.safetensors", tmp_path / "m.gguf"
    for file in (weights, gguf):
        file.write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to(weights)
    for path in (model, weights, link, model / ".." / "model" / weights.name):
        assert "part of the model" in refused(path, model)
    assert "part of the model" in refused(gguf, gguf)
    assert "part of the model" in refused(model, model, "dir")
    (model / "old.llmc").write_bytes(b"x")
    for path in (model / "new.llmc", model / "old.llmc", tmp_path / "m.llmc"):
        check_output(path, "file", str(model))
    assert not list(model.glob(".*"))


def test_the_command_says_so_before_it_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from llmc.cli.app import invoke\n"
        "from llmc.base.failures import run_guarded\n"
        "code = run_guarded(invoke, sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "compile", "some/model", "-o", str(tmp_path / "a" / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("llmc: LLMC-E0702")
    assert len(done.stderr.splitlines()) == 2


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from llmc.cli import main; main()"
    command = [sys.executable, "-c", code, "compile", "some/model"]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("llmc: LLMC-E0707: the current folder no longer exists")
