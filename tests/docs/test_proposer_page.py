"""What the page about proposers says that a new one touches is all that knows of one."""

import ast

from doc_pages import ROOT, page
from llmc.runtime.engine.speculation.proposer import Proposer

PAGE = page("docs/adding-a-proposer.md")
SEAM = {"proposer", "drafting", "verification"}
"""What the engine itself uses of `runtime/engine/speculation/`."""


def imported_from_speculation(source: str) -> set[str]:
    """Modules of `speculation` that a file of the engine imports."""
    return {
        node.module.rpartition(".")[2]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and "speculation." in (node.module or "")
        if node.module is not None
    }


def test_one_file_and_who_hands_it_over() -> None:
    where = [row[0] for row in PAGE.rows("| where |")]
    assert where == ["`runtime/engine/speculation/<name>.py`", "who makes the `Engine`"]


def test_the_engine_knows_no_proposer_by_name() -> None:
    found = {
        path.name: imported_from_speculation(path.read_text())
        for path in (ROOT / "runtime" / "engine").rglob("*.py")
    }
    assert found["scheduler.py"] == {"proposer", "drafting"}
    assert set().union(*found.values()) == SEAM


def test_every_method_is_explained() -> None:
    methods = {name for name, value in vars(Proposer).items() if callable(value)} - {"__init__"}
    public = {name for name in methods if not name.startswith("_")}
    assert public == {"propose", "finished"}
    assert all(f"`{name}`" in PAGE.text or f"def {name}(" in PAGE.text for name in public)
