"""The examples, and the snippets of the pages that need an artifact, run on a small one."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    (path.name, text)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for text in SNIPPET.findall(path.read_text("utf-8"))
    if "model.llmc" in text
]


def run(example: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / example, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_generate(toy_artifact: Path) -> None:
    done = run("generate.py", toy_artifact, "hello", "--max-tokens", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "[5 tokens, length, " in done.stderr


def test_generate_says_what_is_wrong(tmp_path: Path) -> None:
    done = run("generate.py", tmp_path / "none.llmc", "hello")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("LLMC-E0501: ")
    assert len(done.stderr.splitlines()) == 2


def test_batch_gives_each_prompt_its_own_text(toy_artifact: Path) -> None:
    together = run("batch.py", toy_artifact, "hello", "abc world", "--max-tokens", 6)
    assert together.returncode == 0, together.stderr
    first, second, total = together.stdout.splitlines()
    assert total.startswith("[12 tokens of 2 sequences in ")
    for prompt, line in (("hello", first), ("abc world", second)):
        alone = run("batch.py", toy_artifact, prompt, "--max-tokens", 6)
        assert alone.stdout.splitlines()[0] == line
    assert first != second


def test_async_app_answers_every_user(toy_artifact: Path) -> None:
    users = ["hello", "abc world", "there"]
    done = run("async_app.py", toy_artifact, *users, "--max-tokens", 6, "--users", 2)
    assert done.returncode == 0, done.stderr
    for user in users:
        assert f"> {user}\n" in done.stdout
    assert done.stdout.count("[6 tokens, length]") + done.stdout.count(" tokens, stop]") == 3
    missing = run("async_app.py", toy_artifact.parent / "none", "hello")
    assert (missing.returncode, missing.stderr[:12]) == (5, "LLMC-E0501: ")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory, toy_library: bytes) -> Path:
    """The C example, built as its page says; `toy_library` skips where there is no compiler."""
    program = tmp_path_factory.mktemp("c") / "decode"
    page = (ROOT / "docs" / "c-abi.md").read_text("utf-8")
    line = re.search(r"^cc (.*) -o decode (.*)$", page, re.MULTILINE)
    assert line is not None
    compiler = [sys.executable, "-m", "ziglang", "cc", "-Wall", "-Wextra", "-Werror"]
    command = [*compiler, *line[1].split(), "-o", str(program), *line[2].split()]
    subprocess.run(command, check=True, cwd=ROOT)
    return program


def decode(decoder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(decoder), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("length", [1, 40, 100], ids=["short", "window", "chunks"])
def test_c_decodes_as_python_does(
    decoder: Path, toy_artifact: Path, toy: type, length: int
) -> None:
    prompt = [7 * n % 97 for n in range(length)]
    done = decode(decoder, toy_artifact, "portable", 50, *prompt)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == toy.greedy(prompt, 50)


def test_c_says_what_is_wrong(decoder: Path, toy_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no artifact, but more than the 22 bytes of an end record")
    for arguments, cause in (
        ((toy_artifact, "portable"), "usage: decode FILE LEVEL COUNT ID..."),
        ((tmp_path / "none", "portable", 1, 1), f"cannot open {tmp_path / 'none'}"),
        ((tmp_path / "text", "portable", 1, 1), "not an artifact"),
        ((toy_artifact, "other", 1, 1), "the artifact has no entry programs/cpu/other.so"),
        ((toy_artifact, "portable", 1, 97), "97 is not a token id below 97"),
        ((toy_artifact, "portable", 320, 1), "at most 320 tokens"),
    ):
        done = decode(decoder, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{cause}\n")


def test_there_are_snippets() -> None:
    assert {name for name, _ in SNIPPETS} >= {
        "README.md",
        "artifact-format.md",
        "embedding.md",
        "metrics.md",
    }


@pytest.mark.parametrize(("name", "text"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_snippet(
    name: str,
    text: str,
    toy_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(toy_artifact, tmp_path / "model.llmc")
    (tmp_path / "snippet.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("snippet.py", run_name="__main__")
    assert capsys.readouterr().out.strip()
