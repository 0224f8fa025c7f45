"""`docs/server.md`: its table is that of the settings, and its examples run."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llmc.server.config import read_config, settings
from llmc.server.connection.error_objects import STATUS
from llmc.server.routes import ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_table_is_that_of_the_settings() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    documented = {name: (default, what) for name, default, what in rows}
    for one in settings():
        default, what = documented.pop(one.name)
        assert what == one.description
        value = default.strip("`")
        if one.default in (None, "", []):
            assert value == ""
        elif isinstance(one.default, bool):
            assert value == str(one.default).lower()
        else:
            assert type(one.default)(value) == one.default
    assert documented == {}


def test_every_path_and_status_is_there() -> None:
    for route in ROUTES:
        assert f"`{route.path}`" in PAGE, route.path
    for status in STATUS.values():
        assert re.search(rf"^\| .*\b{status}\b.* \|", PAGE, re.MULTILINE), status


def test_the_file_of_settings_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    file = tmp_path / "server.toml"
    file.write_text(text)
    assert read_config(file, {}).max_waiting == 64


def test_the_examples_run(serve: Any, toy_artifact: Path) -> None:
    url = serve(toy_artifact).url
    commands = [line for block in blocks("sh") for line in block.splitlines() if "curl" in line]
    assert len(commands) == 3
    for command in commands:
        command = command.replace("http://127.0.0.1:8000", url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert '"error"' not in done.stdout
        assert re.search(r'"(content|text|tokens)":', done.stdout)
    (snippet,) = [block for block in blocks("python") if "OpenAI(" in block]
    exec(snippet.replace("http://127.0.0.1:8000", url).replace('"smol"', '"toy"'), {})


def test_the_application_of_an_app(
    toy_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smol.llmc").symlink_to(toy_artifact)
    (snippet,) = [block for block in blocks("python") if "create_app" in block]
    made: dict[str, Any] = {}
    exec(snippet, made)
    assert made["app"].state.llmc.config.max_waiting == 16
    made["model"].close()
