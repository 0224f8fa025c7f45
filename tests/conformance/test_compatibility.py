"""docs/compatibility.md is what the results say, and the results are what happens."""

import random
import sys
from pathlib import Path

from llmc.artifact.targets import TARGETS

sys.path.insert(0, str(Path(__file__).parent))
import compatibility as table

AGAIN = 2
"""Cells that are tried again."""
QUICK = ("cpu", "onnx")
"""Targets that compile in seconds."""


DIALECTS = ("ort", "standard")


def test_every_target_has_a_column() -> None:
    assert {column.target for column in table.COLUMNS} == set(TARGETS)
    dialects = {dict(c.options).get("dialect", DIALECTS[0]) for c in table.COLUMNS}
    assert dialects == set(DIALECTS)


def test_the_page_is_rendered_from_the_results() -> None:
    """Families, targets and schemes that exist now, no other; every result in its place."""
    results = table.read()
    assert table.DOCUMENT.read_text() == table.render(results)
    assert list(results) == [cell.key for cell in table.cells() if cell.key in results]


def test_no_cell_is_wrong() -> None:
    """Whatever runs gives the right answers; what isn't done is refused beforehand."""
    wrong = {key for key, found in table.read().items() if found["status"] in ("differs", "fails")}
    assert wrong == set()


def test_some_cells_come_out_as_they_did() -> None:
    """Other cells for every table, the same ones for everybody who has it."""
    results = table.read()
    quick = [c for c in table.cells() if c.key in results and c.column.target in QUICK]
    clear = [c for c in quick if _is_clear(c.scheme, results[c.key])]
    for cell in random.Random(table.RESULTS.read_text()).sample(clear, AGAIN):
        found, known = table.attempt(cell), results[cell.key]
        assert (found["status"], found.get("error")) == (
            known["status"],
            known.get("error"),
        ), f"{cell.key}: {found}"


def _is_clear(scheme: str, found: table.Result) -> bool:
    """Refused, or far from the tolerance, which another processor may come nearer to."""
    worst = found.get("worst", 0.0)
    assert isinstance(worst, float)
    return worst <= table.TOLERANCE.get(scheme, table.ROUNDED_TOLERANCE) / 2
