"""The error table is complete, sorted, and used with ids that exist."""

import pickle
import re
from pathlib import Path

import pytest
from llmc.base.error_table import ERRORS
from llmc.base.errors import LlmcError

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
ROOMS = (
    "base",
    "artifact",
    "runtime",
    "server",
    "ir",
    "weights",
    "models",
    "passes",
    "codegen",
    "compiler",
)


def test_rows_are_sorted_and_well_formed():
    assert list(ERRORS) == sorted(ERRORS)
    for id, info in ERRORS.items():
        assert re.fullmatch(r"LLMC-E0[1-7]\d\d", id)
        assert info.explanation.endswith(".")
        assert info.title
        assert info.advice
        assert "\n" not in info.title + info.advice


def test_every_id_in_the_tree_has_a_row():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += list(ROOT.glob("*.py"))
    used = {id for f in files for id in re.findall(r"LLMC-E\d{4}", f.read_text("utf-8"))}
    assert used
    assert used - set(ERRORS) == set()


def test_exit_codes():
    assert LlmcError("LLMC-E0401", "x").exit_code == 4
    assert LlmcError("LLMC-E0798", "x").exit_code == 130
    assert LlmcError("LLMC-E0799", "x").exit_code == 143


def test_the_advice_of_the_table_is_the_default_hint():
    assert LlmcError("LLMC-E0701", "x").hint == ERRORS["LLMC-E0701"].advice
    assert LlmcError("LLMC-E0701", "x", hint="y").hint == "y"


@pytest.mark.parametrize("id", ["LLMC-E0204", "LLMC-E0798"])
def test_it_survives_pickling(id):
    error = pickle.loads(pickle.dumps(LlmcError(id, "cause", hint="do this")))
    assert (error.id, error.message, error.hint) == (id, "cause", "do this")
    assert str(error) == f"{id}: cause"
