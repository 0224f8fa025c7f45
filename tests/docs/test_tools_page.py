"""`docs/tools.md` names every format and shows calls that are read; its numbers are the code's."""

import re

import pytest
from doc_pages import page
from llmc.runtime.text import template_sandbox
from llmc.runtime.text.reasoning import KNOWN
from llmc.runtime.text.tools.calls import parse
from llmc.runtime.text.tools.definitions import MOST_TOOLS
from llmc.runtime.text.tools.registry import FORMATS, format_named

pytestmark = pytest.mark.fast

TOOLS = page("docs/tools.md")
OFFERED = [{"type": "function", "function": {"name": "f"}}]


def rows() -> list[list[str]]:
    """Cells of the table of formats; a bar within a cell is escaped there."""
    lines = TOOLS.text.replace("\\|", "\0").splitlines()
    table = lines[lines.index("| format | a call | written by, among others |") + 2 :]
    table = table[: table.index("")]
    return [[c.strip().replace("\0", "|") for c in line.strip("|").split("|")] for line in table]


def test_every_format_is_listed_in_its_order() -> None:
    assert [row[0].strip("`") for row in rows()] == [format.name for format in FORMATS]


def test_every_example_is_read_as_a_call() -> None:
    for name, example, _ in rows():
        (text,) = re.findall(r"^`([^`]+)`", example)
        if name == "`fenced_json`":
            text += '\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'
        content, calls = parse(format_named(name.strip("`")), text, OFFERED)
        assert (content, calls) == ("", [("f", '{"a": 1}')]), name


def test_numbers_are_those_of_the_code() -> None:
    assert f"more than {MOST_TOOLS} of them" in TOOLS.prose
    assert template_sandbox.MAX_TURNS == 1_000_000
    assert "turn a million times" in TOOLS.prose
    assert f"take {template_sandbox.MAX_SECONDS:.0f} seconds" in TOOLS.prose
    assert f"write {template_sandbox.MAX_CHARACTERS >> 20} MiB" in TOOLS.prose
    assert len(KNOWN) == 4
    assert "three other pairs" in TOOLS.prose
