"""Settings from files and flags, keys, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from llmc.base.errors import LlmcError
from llmc.cli.app import verb
from llmc.server.config import ServerConfig, read_config, settings
from llmc.server.connection.api_keys import read_keys

pytestmark = pytest.mark.fast


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('models = ["a.llmc"]\nport = 1\nhost = "::1"\nrequest_timeout = 5\n')
    config = read_config(file, {"port": 2, "models": None, "cors_origin": []})
    assert (config.port, config.host, config.request_timeout) == (2, "::1", 5.0)
    assert config.artifacts == [("a", Path("a.llmc"))]
    assert read_config(file, {"models": ["b=c.llmc"]}).artifacts == [("b", Path("c.llmc"))]


def test_every_setting_is_a_flag() -> None:
    flags = {name for parameter in verb("serve").params for name in parameter.opts}
    assert {one.flag for one in settings()} <= flags
    assert all(one.description.endswith((".", ")")) for one in settings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = ", "Invalid value"),
        ("ports = 1", "ports"),
        ("port = 70000", "port"),
        ('port = "80"', "port"),
        ("max_n = 0", "max_n"),
        ("drain_seconds = nan", "drain_seconds"),
        ('sampling_defaults = "mine"', "mine"),
        ('max_body = "much"', "much"),
        ('models = ["a=x", "a=y"]', "two models are called 'a'"),
        ('models = ["a="]', "has no file"),
        ('models = ["org/a="]', "'org/a' has no file"),
        ('models = ["org//a=x"]', "'org//a' is no name"),
        ('models = ["org/a=x", "org/a=y"]', "two models are called 'org/a'"),
        ('cors_origin = ["*"]\napi_key = ["k"]', "exclude one another"),
        ("\x00", "line 1"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line_with_an_id(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(LlmcError) as refused:
        read_config(file, {})
    assert refused.value.id in ("LLMC-E0219", "LLMC-E0205")
    assert message in str(refused.value)
    assert "\n" not in refused.value.message


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "runs" / "lr=1.llmc"
    there.parent.mkdir()
    there.touch()
    entries = {
        "smol.llmc": ("smol", "smol.llmc"),
        "dir/smol.llmc": ("smol", "dir/smol.llmc"),
        "chat=dir/smol.llmc": ("chat", "dir/smol.llmc"),
        "org/name=smol.llmc": ("org/name", "smol.llmc"),
        "a/b/c=/abs/x=y.llmc": ("a/b/c", "/abs/x=y.llmc"),
        f"{there}": ("lr=1", str(there)),
        "runs/lr=1.llmc": ("lr=1", "runs/lr=1.llmc"),
        "./runs/lr=2.llmc": ("lr=2", "./runs/lr=2.llmc"),
    }
    for entry, (name, path) in entries.items():
        assert ServerConfig(models=[entry]).artifacts == [(name, Path(path))]


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nbob:b==\nc:d:e\n")
    keys = read_keys(["a"], str(file), {"LLMC_API_KEY": "x, alice:secret"})
    named = {"a": "key-1", "b==": "bob", "d:e": "c", "x": "key-4", "secret": "alice"}
    for key, name in named.items():
        assert keys.name_of(f"Bearer {key}".encode()) == name
    for wrong in ("Bearer z", "bob:b==", "Bearer", "", "Basic a", "Bearer bob:b=="):
        assert keys.name_of(wrong.encode()) is None
    assert "secret" not in repr(vars(keys))
    assert not read_keys([], "", {}).required


@pytest.mark.parametrize(("flags", "content"), [([""], None), (["a b"], None), ([], "# none\n")])
def test_keys_that_protect_nothing(tmp_path: Path, flags: Any, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(LlmcError) as refused:
        read_keys(flags, str(file) if content is not None else "", {})
    assert refused.value.id == "LLMC-E0219"


def test_defaults_are_valid() -> None:
    config = ServerConfig()
    assert config.max_body_bytes == 4_000_000
    assert config.memory_bytes is None
    assert config.host == "127.0.0.1"  # nobody else's without being asked to
