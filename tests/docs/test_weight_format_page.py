"""What the page about weight formats says that a format touches is what ours touch."""

import ast
from fnmatch import fnmatch

from doc_pages import ROOT, page
from llmc.weights.formats.registry import FORMATS

ROOMS = ("base", "artifact", "runtime", "server", "ir", "models", "weights", "passes", "codegen",
         "compiler", "cli")  # fmt: skip
PAGE = page("docs/adding-a-weight-format.md")
TOLD = [span for span in PAGE.inline if "/" in span]
NAMES = {*FORMATS, *(dtype.name for dtype in FORMATS)}


def names_a_format(source: str) -> bool:
    """A member of `DType`, or its name as a text, in code (not in docstrings)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            return True
        if isinstance(node, ast.Constant) and node.value in NAMES:
            return True
    return False


def covers(told: str, name: str) -> bool:
    """Whether a path of the page is the file `name`, or a folder that holds it."""
    return fnmatch(name, told + "*" if told.endswith("/") else told)


def test_no_other_file_names_a_format() -> None:
    named = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if names_a_format(path.read_text())
    ]
    assert {"ir/types.py", "weights/formats/i4a.py", "codegen/cpu/packing.py"} <= set(named)
    assert [name for name in named if not any(covers(told, name) for told in TOLD)] == []


def test_four_places_are_enough() -> None:
    assert len(PAGE.rows("| where |")) == 4
