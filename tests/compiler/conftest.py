"""A tiny model folder and its artifact, made once for all tests of the compiler."""

from pathlib import Path

import llmc
import pytest
from zoo import find

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"


@pytest.fixture(scope="session", autouse=True)
def shared(shared_compiler: None) -> None:
    """Models are traced once, libraries built once."""


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama checkpoint whose chat template names special tokens."""
    folder = find("llama").save(tmp_path_factory.mktemp("models") / "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def compiled(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its artifact: f32, for this machine."""
    path = tmp_path_factory.mktemp("artifacts") / "llama.llmc"
    llmc.compile(str(llama), output=path)
    return path
