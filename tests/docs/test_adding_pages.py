"""Counts what has to be touched to add something, as the pages of `docs/` list it.

Each page begins with a table `| where | what |`. Its rows are places: a file, a folder that gets a
file, or a new file by a pattern such as `<name>.py`. Tests, kernels and pages aside they are
product files, of which there may be no more than `MOST`. `pytest -s` prints the counts.
"""

import re

import pytest
from doc_pages import ROOT, page

pytestmark = pytest.mark.fast

MOST = {
    "adding-an-op": 2,  # the op, and what imports it; a kernel of one line for cpu
    "adding-a-weight-format": 4,
    "adding-a-state-kind": 4,
    "adding-a-target": 4,  # beside its folders
    "adding-a-proposer": 1,
    "adding-an-endpoint": 2,  # its own file and a row
}
ASIDE = re.compile(r"^(tests|docs)/|^README\.md$|/kernels/|<name>/")
"""What isn't counted: tests, pages, kernels, and what a new folder of its own holds."""


def places(name: str) -> list[str]:
    """The paths in the first column of a page's table."""
    rows = page(f"docs/{name}.md").rows("| where |")
    words = [word for where, *_ in rows for word in re.findall(r"`([\w./<>*-]+)`", where)]
    return [word for word in words if "/" in word or (ROOT / word).is_file()]


def present() -> list[str]:
    return [name for name in MOST if (ROOT / "docs" / f"{name}.md").exists() and places(name)]


@pytest.mark.parametrize("name", present())
def test_places_exist_and_are_few(name: str) -> None:
    found = places(name)
    for path in found:
        there = path.split("<")[0] if "<" in path else path
        assert (ROOT / there).exists() or (ROOT / there).parent.is_dir(), f"{name}: {path}"
        assert "<" in path or (ROOT / path).exists(), f"{name}: {path}"
    product = {path for path in found if not ASIDE.search(path)}
    print(f"{name}: {len(product)} product files: {', '.join(sorted(product))}")
    assert len(product) <= MOST[name]


def test_pages_with_such_a_table_are_counted() -> None:
    """A new page of this kind needs a limit, and what was counted stays counted."""
    pages = {path.stem for path in (ROOT / "docs").glob("adding-*.md")}
    assert pages <= {*MOST, "adding-a-pass"}
    assert {"adding-an-op", "adding-a-weight-format", "adding-a-proposer"} <= set(present())
