"""The serving machine: the built wheel and the base dependencies, and nothing that compiles."""

import json
import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from linked_environment import ROOT, make_environment, run
from llmc.compiler import driver
from llmc.runtime.api.model import load
from zoo import find

NOT_SOURCE = (".*", "build", "dist", "tests", "benchmarks", "docs", "*.egg-info", "__pycache__")
COMPILER_PACKAGES = ("torch", "transformers", "safetensors", "gguf", "ziglang")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, in a folder whose name is not an identifier."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "a-copy"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    done = run(sys.executable, "-m", "pip", "wheel", *options, source)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; base dependencies are links to the installed ones."""
    folder = tmp_path_factory.mktemp("environment")
    make_environment(folder)
    python = folder / "bin" / "python"
    options = ("install", "--no-deps", "--no-index", "--quiet", wheel)
    done = run(sys.executable, "-m", "pip", "--python", python, *options)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled zoo model, with the tokenizer and chat template of its checkpoint."""
    folder = tmp_path_factory.mktemp("compiled")
    checkpoint = find("llama").save(folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "probe", lambda *_: "probe: left out")
        driver.compile(str(checkpoint), output=folder / "llama.llmc", scheme="int4")
    return folder / "llama.llmc"


def test_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    for path in ("artifact/llmc.h", "py.typed", "codegen/cpu/kernels/attention.h"):
        assert f"llmc/{path}" in names
    assert "llmc/server/ops/status.html" in names
    packaged = {path for path in names if path.endswith(".py")}
    assert not [path for path in packaged if "/tests/" in path or "/benchmarks/" in path]
    missing = [
        path.relative_to(ROOT).as_posix()
        for room in ROOT.iterdir()
        if (room / "__init__.py").exists()
        for path in room.rglob("*.py")
        if f"llmc/{path.relative_to(ROOT).as_posix()}" not in packaged
    ]
    assert not missing


def test_nothing_of_the_compiler_is_there(environment: Path) -> None:
    code = "import sys\nfrom importlib.util import find_spec\n"
    code += "print([name for name in sys.argv[1:] if find_spec(name)])"
    done = run(environment / "bin" / "python", "-c", code, *COMPILER_PACKAGES)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_artifact_runs(environment: Path, artifact: Path, tmp_path: Path) -> None:
    """By the command and as a library, with the same result as where it was compiled."""
    with load(artifact) as model:
        expected = [i for chunk in model.generate("hello", max_tokens=8) for i in chunk.token_ids]
    command = (environment / "bin" / "llmc", "run", artifact, "hello", "--max-tokens", 8, "--json")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == expected
    code = "import llmc, sys\n"
    code += "chunks = llmc.load(sys.argv[1]).generate('hello', max_tokens=8)\n"
    code += "print(*(token for chunk in chunks for token in chunk.token_ids))"
    library = run(environment / "bin" / "python", "-c", code, artifact, cwd=tmp_path)
    assert library.returncode == 0, library.stderr
    assert [int(token) for token in library.stdout.split()] == expected


def test_compiling_names_what_to_install(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "bin" / "llmc", "compile", "some/model", "--json", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["id"] == "LLMC-E0703"
    assert "pip install 'llmc-compiler[compile]'" in error["hint"]


def test_serving_names_what_to_install(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "bin" / "llmc", "serve", "some.llmc", "--json", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["id"] == "LLMC-E0703"
    assert "pip install 'llmc-compiler[serve]'" in error["hint"]
    assert run(environment / "bin" / "llmc", "serve", "--help", cwd=tmp_path).returncode == 0
