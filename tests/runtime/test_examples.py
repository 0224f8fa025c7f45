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


def test_there_are_snippets() -> None:
    assert {name for name, _ in SNIPPETS} >= {"README.md", "artifact-format.md"}


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
